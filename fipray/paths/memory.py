"""Memory of earlier inputs as Kronecker factors of the metric, without the inputs themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import KroneckerMetric, Metric, Warm
from fipray.paths.problem import Problem
from fipray.registry import spec

# Prefix of the names of one metric's arrays in the file of a point, with its number.
# It ends in a space, so that the prefix of metric 1 does not match the arrays of metric 10 as well.
_NAME = "memory {} "


@spec("kronecker_memory")
@checked
@dataclass(frozen=True)
class KroneckerMemory:
    """Record of the function on some inputs: its metric as Kronecker products, from which the inputs can be dropped.

    It is computed at the start of a path. The end of the path, and each of its points, carries it for paths that begin
    there; the objective `KroneckerPenalty` uses it.

    Args:
        sets: names of sets in the study's data, one or more.
        num_inputs: number of their inputs that are used, evenly spaced, at least 1.
        fraction: fraction of the trace of each factor that is kept, above 0 and up to 1 (`KroneckerMetric.of`); less
            takes less memory and holds the function less tightly.
        temperature: temperature of the class probabilities (`fipray.geometry.Warm`), above 0; 1 means the geometry of
            the problem, whatever it is.

    Raises:
        UsageError: for a number out of range.
    """

    sets: tuple[str, ...]
    num_inputs: int = 1000
    fraction: float = 0.99
    temperature: float = math.inf

    def __post_init__(self) -> None:
        if not (self.sets and self.num_inputs >= 1):
            raise UsageError(
                f"a memory needs one or more sets and one or more inputs of them; num_inputs={self.num_inputs} and "
                f"sets={self.sets} were given"
            )
        if not 0 < self.fraction <= 1:
            raise UsageError(f"fraction is a fraction of a trace, above 0 and up to 1; {self.fraction} was given")
        Warm(self.temperature)  # raises UsageError for a number that is no temperature

    @checked
    def of(self, problem: Problem, inputs: Tensor) -> KroneckerMetric:
        """Compute the metric at the start of a path.

        Args:
            problem: problem of the path.
            inputs: inputs [N, ...] of the sets.

        Returns:
            Kronecker factors of the metric, which hold no inputs.
        """
        # Marks rather than a whole stride, which would leave the last inputs out where it does not divide their number.
        number = min(self.num_inputs, len(inputs))
        chosen = inputs[torch.arange(number, device=inputs.device) * len(inputs) // number]
        # At 1 `Warm` would be Fisher-Rao, which does not suit outputs of a regression.
        geometry = problem.geometry if self.temperature == 1 else Warm(self.temperature)
        return KroneckerMetric.of(Metric(problem.network, problem.start, chosen, geometry), fraction=self.fraction)


def packed(memory: Sequence[KroneckerMetric]) -> dict[str, Tensor]:
    """Flatten metrics into named arrays, as they are written to a file.

    Args:
        memory: metrics in order.

    Returns:
        Arrays whose names hold the number of their metric.
    """
    return {
        _NAME.format(number) + name: kept
        for number, metric in enumerate(memory)
        for name, kept in metric.arrays().items()
    }


def unpacked(arrays: Mapping[str, Tensor]) -> tuple[KroneckerMetric, ...]:
    """Rebuild metrics from named arrays, the inverse of `packed`.

    Args:
        arrays: arrays by name; those with other names are ignored.

    Returns:
        Metrics in order.
    """
    found: list[KroneckerMetric] = []
    # Numbers are consecutive, so the first one without arrays is the end; no count is stored.
    while own := _without_prefix(arrays, _NAME.format(len(found))):
        found.append(KroneckerMetric.from_arrays(own))
    return tuple(found)


def _without_prefix(arrays: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): kept for name, kept in arrays.items() if name.startswith(prefix)}
