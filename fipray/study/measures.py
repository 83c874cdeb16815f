"""What a study measures at every kept point of its paths, beside what every study does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.border.functions import function_named
from fipray.border.kinds import Seed
from fipray.errors import DataError, UsageError
from fipray.geometry import class_logits
from fipray.networks import Network
from fipray.paths import Examples, Probe
from fipray.registry import spec
from fipray.robustness import PGD, Attack, ThreatModel, evaluate

ACCURACY = "clean_accuracy"  # measured wherever there are labelled test inputs
TAKEN = (
    ACCURACY,
    *("functional_distance_held_out", "functional_distance", "objective_value", "gain", "sparsity", "robust_accuracy"),
    *("step", "seconds", "radius", "weights_distance", "outcome", "name", "path_id"),
)
"""Names that columns have already."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_ARGUMENTS = ("a module",)


@runtime_checkable
class Measure(Protocol):
    """A number that is measured at the points of a path."""

    def measured(self, network: Network, weights: Tensor, tests: Examples | None) -> float:
        """The measure of `weights` [P]; `tests` are the labelled test inputs of the study, None without any."""
        ...


@spec("robust_accuracy")
@checked
@dataclass(frozen=True)
class RobustAccuracy:
    """Accuracy on test inputs under one attack, as a measure of points.

    Args:
        threat_model: what the attack may do.
        attack: of white-box attacks, `PGD(10)` by default. Cheaper than a study's evaluation, and an upper bound of it.
        num_examples: test inputs that are attacked, from the first on, at least 1.
        seed: of the attack.
    """

    threat_model: ThreatModel
    attack: Attack = PGD(10)
    num_examples: int = 100
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise UsageError(f"at least one example is attacked; num_examples={self.num_examples} was given")

    def measured(self, network: Network, weights: Tensor, tests: Examples | None) -> float:
        if tests is None:
            raise DataError("RobustAccuracy needs labelled test inputs: give Data(test_inputs=..., test_labels=...)")
        inputs, labels = tests.inputs[: self.num_examples], tests.labels[: self.num_examples]

        def classifier(some: Tensor) -> Tensor:
            return class_logits(network(weights, some))

        generator = torch.Generator().manual_seed(self.seed)
        found = evaluate(classifier, inputs, labels, self.threat_model, [self.attack], generator)
        return float(found.worst.double().mean())


def check_measures(measures: Mapping[str, str | Measure]) -> None:
    """Raise UsageError for a name that cannot be one or is taken, and for a function that there is not."""
    for name, measure in measures.items():
        if not _NAME.fullmatch(name) or name in TAKEN:
            why = "is the name of a column" if name in TAKEN else "is no name"
            raise UsageError(
                f"the measure {name!r} {why}: give 1 to 64 letters, digits, '_', '-' or '.', the first a letter, that "
                f"are none of {', '.join(TAKEN)}"
            )
        if isinstance(measure, str):
            function_named(measure, _ARGUMENTS)


def probes_of(measures: Mapping[str, str | Measure], network: Network, tests: Examples | None) -> dict[str, Probe]:
    """The measures as functions of the weights [P]."""
    return {name: partial(_measured, measure, network, tests) for name, measure in measures.items()}


def _measured(measure: str | Measure, network: Network, tests: Examples | None, weights: Tensor) -> float:
    if not isinstance(measure, str):
        return measure.measured(network, weights, tests)
    function: Callable[[nn.Module], float] = function_named(measure, _ARGUMENTS)
    return function(network.module_at(weights).requires_grad_(False))
