"""What a path knows of earlier inputs that nobody keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import KroneckerMetric, Metric, Warm
from fipray.paths.problem import Problem
from fipray.registry import spec

_NAME = "memory {} "


@spec("kronecker_memory")
@checked
@dataclass(frozen=True)
class KroneckerMemory:
    """Of the function at a path's start its metric on some inputs, as Kronecker products; the inputs are not kept. The
    end of the path, and every point of it, remembers it for the paths that begin there; `KroneckerPenalty` holds it.

    sets: names among the sets of a study's data, looked at when the path begins.
    num_inputs: of them that are looked at, evenly spaced.
    share: of the trace of each factor that is kept (`KroneckerMetric.of`); less is smaller, and holds less.
    temperature: of the classes (`fipray.geometry.Warm`); 1 for the geometry of the problem, whatever it is.
    """

    sets: tuple[str, ...]
    num_inputs: int = 1000
    fraction: float = 0.99
    temperature: float = math.inf

    def __post_init__(self) -> None:
        if not (self.sets and self.num_inputs >= 1):
            raise UsageError(
                f"a memory is of one or more inputs of one or more sets; num_inputs={self.num_inputs} and "
                f"sets={self.sets} were given"
            )
        if not 0 < self.fraction <= 1:
            raise UsageError(f"share is a part of a trace, above 0 and up to 1; {self.fraction} was given")
        Warm(self.temperature)  # refuses what is no temperature

    @checked
    def of(self, problem: Problem, inputs: Tensor) -> KroneckerMetric:
        """The metric of the start on inputs [N, ...] of the sets."""
        few = inputs[:: max(1, len(inputs) // self.num_inputs)][: self.num_inputs]
        geometry = problem.geometry if self.temperature == 1 else Warm(self.temperature)
        return KroneckerMetric.of(Metric(problem.network, problem.start, few, geometry), fraction=self.fraction)


def packed(memory: Sequence[KroneckerMetric]) -> dict[str, Tensor]:
    """All that is remembered, by names."""
    return {
        _NAME.format(number) + name: kept
        for number, metric in enumerate(memory)
        for name, kept in metric.arrays().items()
    }


def unpacked(arrays: Mapping[str, Tensor]) -> tuple[KroneckerMetric, ...]:
    """What `packed` made names of, in order; other arrays may stand among them."""
    found: list[KroneckerMetric] = []
    while own := _beginning(arrays, _NAME.format(len(found))):
        found.append(KroneckerMetric.from_arrays(own))
    return tuple(found)


def _beginning(arrays: Mapping[str, Tensor], text: str) -> dict[str, Tensor]:
    return {name.removeprefix(text): kept for name, kept in arrays.items() if name.startswith(text)}
