"""Measures of a study's own, taken at every saved point of its paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, runtime_checkable

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
from fipray.robustness import PGD, Attack, ThreatModel, correct, evaluate
from fipray.study.tensors import Tensors, accuracy

AGREEMENT, HELD_OUT_ACCURACY, ACCURACY_LOSS = "agreement", "held_out_accuracy", "accuracy_loss"
"""Names that recipes give to the measures `Agreement`, `HeldOutAccuracy` and `AccuracyLoss`."""
ROBUST_AGREEMENT, TASK_ACCURACY = "robust_agreement", "task_accuracy"
"""Names that recipes give to the measures `RobustAgreement` and `TaskAccuracy`."""
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


@runtime_checkable
class HeldOutMeasure(Protocol):
    """Number that is measured on held-out inputs at the saved points of a path; no test input takes part."""

    def measured_on(self, network: Network, weights: Tensor, held_out: Tensor, labels: Tensor | None) -> float:
        """Measure a network.

        Args:
            network: base network of the study.
            weights: weights [P] at which it is measured.
            held_out: held-out inputs [M, ...] of the study.
            labels: their classes [M]; None without any.

        Returns:
            Measure.
        """
        ...


@runtime_checkable
class TaskMeasure(Protocol):
    """Number that is measured on the labelled examples of the data's tasks at the saved points of a path."""

    def measured_by(self, network: Network, weights: Tensor, tasks: Mapping[str, Examples]) -> float:
        """Measure a network.

        Args:
            network: base network of the study.
            weights: weights [P] at which it is measured.
            tasks: examples of the tasks by name, of `Task.inputs` and `Task.labels`; never their test inputs.

        Returns:
            Measure.
        """
        ...


@spec("agreement")
@checked
@dataclass(frozen=True)
class Agreement:
    """Agreement with the base network on held-out inputs; needs no labels.

    For classes, the fraction of inputs whose predicted class is that of the base network: accuracy can have fallen by
    no more than 1 minus the agreement. For values, `1 - sum |f - f0|^2 / sum |f0 - mean(f0)|^2`, the fraction of the
    variance of the base network's outputs that is kept; below 0 where nothing is.

    Args:
        of: "classes" or "values".
        dim: dimension of the classes in the outputs; not used for values.
        num_examples: number of held-out inputs, from the first one, at least 1.

    Raises:
        UsageError: for num_examples below 1.
    """

    of: Literal["classes", "values"] = "classes"
    dim: int = 1
    num_examples: int = 2000

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise UsageError(f"num_examples must be at least 1, got {self.num_examples}")

    @torch.no_grad()
    def measured_on(self, network: Network, weights: Tensor, held_out: Tensor, labels: Tensor | None) -> float:
        inputs = held_out[: self.num_examples]
        return self.between(network.outputs(weights, inputs), network.outputs(network.weights, inputs))

    def between(self, outputs: Tensor, base: Tensor) -> float:
        """Agreement of two sets of outputs.

        Args:
            outputs: outputs [N, ...] of a network.
            base: those of the base network.

        Returns:
            Agreement, at most 1; outputs that are NaN agree with nothing.
        """
        if self.of == "classes":
            classes = class_logits(outputs, self.dim).argmax(self.dim)
            same = classes == class_logits(base, self.dim).argmax(self.dim)
            return float((same & ~outputs.isnan().any(self.dim)).double().mean())
        spread = (base - base.mean(0)).double().square().sum()
        return float(1 - (outputs - base).double().square().sum() / spread.clamp(min=1e-30))


@spec("held_out_accuracy")
@checked
@dataclass(frozen=True)
class HeldOutAccuracy:
    """Accuracy on held-out inputs, from `Data.held_out_labels`: for choices, which must not see the test inputs.

    Args:
        num_examples: number of held-out inputs, from the first one, at least 1.

    Raises:
        UsageError: for num_examples below 1.
    """

    num_examples: int = 2000

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise UsageError(f"num_examples must be at least 1, got {self.num_examples}")

    def measured_on(self, network: Network, weights: Tensor, held_out: Tensor, labels: Tensor | None) -> float:
        if labels is None:
            raise DataError("HeldOutAccuracy needs labels of the held-out inputs: give Data(held_out_labels=...)")
        return accuracy(network, weights, Examples(held_out[: self.num_examples], labels[: self.num_examples]))


@spec("task_accuracy")
@checked
@dataclass(frozen=True)
class TaskAccuracy:
    """Accuracy on the examples of a task of the data, `Task.inputs` and `Task.labels`; test inputs take no part.

    For choices, a task of held-out examples is given which no path learns.

    Args:
        task: name of the task.
        num_examples: number of its examples, from the first one, at least 1.

    Raises:
        UsageError: for num_examples below 1.
    """

    task: str
    num_examples: int = 2000

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise UsageError(f"num_examples must be at least 1, got {self.num_examples}")

    def measured_by(self, network: Network, weights: Tensor, tasks: Mapping[str, Examples]) -> float:
        if self.task not in tasks:
            known = ", ".join(map(repr, tasks)) or "none"
            raise DataError(f"the data has no task {self.task!r} for TaskAccuracy; its tasks are: {known}")
        of = tasks[self.task]
        return accuracy(network, weights, Examples(of.inputs[: self.num_examples], of.labels[: self.num_examples]))


@spec("accuracy_loss")
@checked
@dataclass(frozen=True)
class AccuracyLoss:
    """Loss of accuracy on held-out inputs since the base network; an estimate where there are no labels.

    With `Data.held_out_labels` the mean over inputs of `[base is right] - [network is right]`. Without labels the base
    network's own probabilities p0 stand for how often it is right: the mean of `p0(y0) - p0(y)`, where y0 is its class
    and y the network's. That is never more than the fraction of inputs on which the two disagree, and less where the
    base network is uncertain. A base network that is too certain makes the estimate too large. The standard errors
    allow for the draw of the inputs.

    Args:
        num_examples: number of held-out inputs, from the first one, at least 1.
        standard_errors: number of standard errors of the mean that are added, at least 0.
        base_weight: weight, 0..1, of the base network's probabilities in a mixture with the network's, which is judged
            in its place.

    Raises:
        UsageError: for a number out of range.
    """

    num_examples: int = 2000
    standard_errors: float = 1.0
    base_weight: float = 0.0

    def __post_init__(self) -> None:
        if not (self.num_examples >= 1 and self.standard_errors >= 0):
            raise UsageError(
                f"num_examples is at least 1 and standard_errors at least 0; {self.num_examples} and "
                f"{self.standard_errors} were given"
            )
        if not 0 <= self.base_weight <= 1:
            raise UsageError(f"base_weight is a fraction, 0..1; {self.base_weight} was given")

    @torch.no_grad()
    def measured_on(self, network: Network, weights: Tensor, held_out: Tensor, labels: Tensor | None) -> float:
        inputs = held_out[: self.num_examples]
        labels = None if labels is None else labels[: self.num_examples]
        return self.between(network.outputs(weights, inputs), network.outputs(network.weights, inputs), labels)

    def between(self, outputs: Tensor, base: Tensor, labels: Tensor | None = None) -> float:
        """Loss of accuracy between two sets of outputs.

        Args:
            outputs: outputs [N, C] of a network; any NaN among those of an input makes it wrong.
            base: those of the base network.
            labels: classes [N]; None for an estimate.

        Returns:
            Loss as a fraction; below 0 where accuracy has risen.
        """
        before = class_logits(base)
        chances = before.double().softmax(1)
        own = torch.lerp(class_logits(outputs).double().softmax(1), chances, self.base_weight)
        if labels is None:
            now = chances.gather(1, own.argmax(1, keepdim=True)).squeeze(1)
            lost = chances.amax(1) - now.where(~own.isnan().any(1), 0.0)
        else:
            lost = correct(before, labels).double() - correct(own, labels).double()
        spread = float(lost.std()) / len(lost) ** 0.5 if len(lost) > 1 else 0.0
        return float(lost.mean()) + self.standard_errors * spread


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
        return _withstanding(self, network, weights, Examples(inputs, labels))


@spec("robust_agreement")
@checked
@dataclass(frozen=True)
class RobustAgreement:
    """Agreement with the base network on held-out inputs under one attack: for choices, which must not see test inputs.

    The fraction of inputs of which the network predicts, under the attack, the class that the base network predicts
    without one; with `Data.held_out_labels` their class, so that it is robust accuracy.

    Args:
        threat_model: norm, epsilon and bounds of the perturbations.
        attack: attack; `PGD(10)` by default.
        num_examples: number of held-out inputs that are attacked, from the first one, at least 1.
        seed: seed of the attack's random numbers.

    Raises:
        UsageError: for num_examples below 1.
    """

    threat_model: ThreatModel
    attack: Attack = PGD(10)
    num_examples: int = 200
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.num_examples < 1:
            raise UsageError(f"num_examples must be at least 1, got {self.num_examples}")

    def measured_on(self, network: Network, weights: Tensor, held_out: Tensor, labels: Tensor | None) -> float:
        inputs = held_out[: self.num_examples]
        if labels is None:
            with torch.no_grad():
                labels = class_logits(network.outputs(network.weights, inputs)).argmax(1)
        return _withstanding(self, network, weights, Examples(inputs, labels[: self.num_examples]))


def _withstanding(
    measure: RobustAccuracy | RobustAgreement, network: Network, weights: Tensor, examples: Examples
) -> float:
    """Fraction of examples that are classified as their labels say, also under the measure's attack."""

    def classifier(some: Tensor) -> Tensor:
        return class_logits(network(weights, some))

    inputs, labels = examples.inputs, examples.labels

    def fraction() -> float:
        # Seeded anew for every point, so that differences between points are not due to random starts.
        draws = torch.Generator(inputs.device).manual_seed(measure.seed)
        found = evaluate(classifier, inputs, labels, measure.threat_model, [measure.attack], draws)
        return float(found.worst.double().mean())

    return network.fitting(fraction, len(inputs))


AnyMeasure = str | Measure | HeldOutMeasure | TaskMeasure
"""What a study takes as a measure; a text is `module:function`, a function of the module."""


def check_measures(measures: Mapping[str, AnyMeasure]) -> None:
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


def probes_of(measures: Mapping[str, AnyMeasure], network: Network, data: Tensors) -> dict[str, Probe]:
    """Convert measures to functions of the weights.

    Args:
        measures: measures of a study by name.
        network: base network.
        data: data of the study.

    Returns:
        Functions from weights [P] to a number, by name.
    """
    return {name: partial(_measured, measure, network, data) for name, measure in measures.items()}


def _measured(measure: AnyMeasure, network: Network, data: Tensors, weights: Tensor) -> float:
    if isinstance(measure, HeldOutMeasure):
        return measure.measured_on(network, weights, data.held_out(()), data.held_out_labels)
    if isinstance(measure, TaskMeasure):
        return measure.measured_by(network, weights, data.tasks)
    if not isinstance(measure, str):
        return measure.measured(network, weights, data.tests)
    function: Callable[[nn.Module], float] = function_named(measure, _ARGUMENTS)
    # Without gradients: a function that forgets `no_grad` would keep a graph of every forward pass in memory.
    return function(network.module_at(weights).requires_grad_(False))
