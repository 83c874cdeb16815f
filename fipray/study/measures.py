"""Measures of a study's own, taken at every saved point of its paths."""

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
from fipray.records import TABLES
from fipray.registry import spec
from fipray.robustness import PGD, Attack, ThreatModel, evaluate

ACCURACY = "clean_accuracy"
"""Measure that every study with labelled test inputs has."""
# Frames of trials show measures beside these columns, and pandas refuses two of one name. A scheduler is given the rows
# of `points` with the measures among them, where a second name would hide the first.
TAKEN = ("robust_accuracy", "outcome", *dict.fromkeys(c.name for t in ("points", "trials") for c in TABLES[t].columns))
"""Names of columns that a measure cannot have."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_ARGUMENTS = ("a module",)


@runtime_checkable
class Measure(Protocol):
    """Number that is measured at the saved points of a path."""

    def measured(self, network: Network, weights: Tensor, tests: Examples | None) -> float:
        """Measure a network.

        Args:
            network: base network of the study.
            weights: weights [P] at which it is measured.
            tests: labelled test inputs of the study; None without any.

        Returns:
            Measure.
        """
        ...


@spec("robust_accuracy")
@checked
@dataclass(frozen=True)
class RobustAccuracy:
    """Accuracy on test inputs under one attack, measured at saved points.

    One weak attack is cheaper than a study's evaluation, and its robust accuracy is an upper bound only.

    Args:
        threat_model: norm, epsilon and bounds of the perturbations.
        attack: attack; `PGD(10)` by default.
        num_examples: number of test inputs that are attacked, from the first one, at least 1.
        seed: seed of the attack's random numbers.

    Raises:
        UsageError: for num_examples below 1.
    """

    threat_model: ThreatModel
    attack: Attack = PGD(10)
    num_examples: int = 100
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise UsageError(f"num_examples must be at least 1, got {self.num_examples}")

    def measured(self, network: Network, weights: Tensor, tests: Examples | None) -> float:
        if tests is None:
            raise DataError("RobustAccuracy needs labelled test inputs: give Data(test_inputs=..., test_labels=...)")
        inputs, labels = tests.inputs[: self.num_examples], tests.labels[: self.num_examples]

        def classifier(some: Tensor) -> Tensor:
            return class_logits(network(weights, some))

        # Seeded anew for every point, so that differences between points are not due to random starts.
        generator = torch.Generator().manual_seed(self.seed)
        found = evaluate(classifier, inputs, labels, self.threat_model, [self.attack], generator)
        return float(found.worst.double().mean())


def check_measures(measures: Mapping[str, str | Measure]) -> None:
    """Check names and functions of measures.

    Args:
        measures: measures of a study by name.

    Raises:
        UsageError: for a name of another form or of a column, and for a function that does not exist.
    """
    for name, measure in measures.items():
        if not _NAME.fullmatch(name) or name in TAKEN:
            why = "has the name of a column" if name in TAKEN else "has an invalid name"
            raise UsageError(
                f"the measure {name!r} {why}: use 1 to 64 letters, digits, '_', '-' or '.', the first a letter, and "
                f"none of {', '.join(TAKEN)}"
            )
        if isinstance(measure, str):
            function_named(measure, _ARGUMENTS)


def probes_of(measures: Mapping[str, str | Measure], network: Network, tests: Examples | None) -> dict[str, Probe]:
    """Convert measures to functions of the weights.

    Args:
        measures: measures of a study by name.
        network: base network.
        tests: labelled test inputs; None without any.

    Returns:
        Functions from weights [P] to a number, by name.
    """
    return {name: partial(_measured, measure, network, tests) for name, measure in measures.items()}


def _measured(measure: str | Measure, network: Network, tests: Examples | None, weights: Tensor) -> float:
    if not isinstance(measure, str):
        return measure.measured(network, weights, tests)
    function: Callable[[nn.Module], float] = function_named(measure, _ARGUMENTS)
    # Without gradients: a function that forgets `no_grad` would keep a graph of every forward pass in memory.
    return function(network.module_at(weights).requires_grad_(False))
