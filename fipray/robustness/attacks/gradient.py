"""Attacks: searches for the worst input inside a threat model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec
from fipray.robustness.attacks.worst import Worst
from fipray.robustness.margin import (
    Classifier,
    check_counts,
    check_examples,
    checked_outputs,
    margin_gradient,
)
from fipray.robustness.threat_models import ThreatModel, each


@runtime_checkable
class Attack(Protocol):
    """A search for inputs that a classifier gets wrong."""

    @property
    def name(self) -> str:
        """Names the attack and its strength in tables."""
        ...

    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        """Inputs [N, ...] inside the threat model around `inputs` [N, ...] that `classifier` should not call `labels`
        [N].

        With `until_fooled` only the verdicts matter, and an example may be left alone once it is fooled; the verdicts
        are the same. Without it every example is pushed as far as the attack can, which is what replaying on other
        networks needs.
        """
        ...


@spec("fgsm")
@checked
@dataclass(frozen=True)
class FGSM:
    """One step of length epsilon from the clean input (Goodfellow et al. 2015); for l2 along the unit gradient."""

    @property
    def name(self) -> str:
        return "fgsm"

    @checked
    @torch.no_grad()
    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        check_examples(inputs, labels, threat_model)
        _, _, gradient = margin_gradient(classifier, inputs, labels)
        return threat_model.project(inputs + threat_model.epsilon * threat_model.steepest(gradient), inputs)


@spec("pgd")
@checked
@dataclass(frozen=True)
class PGD:
    """Projected gradient descent on the margin (Madry et al. 2018) from random starts, keeping each example's best
    iterate.

    The first step is `step_fraction * epsilon` long; an example's step is halved whenever two steps in a row brought it
    no new lowest margin. That needs neither tuning nor to know how many steps will follow, so that the iterates of a
    short attack are the first iterates of a longer one, and it is as strong as APGD (Croce & Hein 2020), whose first
    step is 2 epsilon too.

    Costs num_steps gradients and one more forward pass a restart, for the examples still standing.
    """

    num_steps: int = 20
    num_restarts: int = 1
    step_fraction: float = 2.0

    def __post_init__(self) -> None:
        _check(self.step_fraction, num_steps=self.num_steps, num_restarts=self.num_restarts)

    @property
    def name(self) -> str:
        return f"pgd-{self.num_steps}x{self.num_restarts}"

    @checked
    @torch.no_grad()
    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        check_examples(inputs, labels, threat_model)
        search = _Search(self, classifier, inputs, labels, threat_model, until_fooled)
        for _ in range(self.num_restarts):
            search.descend(threat_model.starts(inputs, generator), rivals=None)
        return search.worst.inputs


@spec("targeted_pgd")
@checked
@dataclass(frozen=True)
class TargetedPGD:
    """PGD towards one wrong class at a time: the `num_targets` that the clean input is closest to, each from a random
    start.

    It descends z_y - z_k, as APGD-T does (Croce & Hein 2020), and finds what the untargeted attack, which follows
    whichever class is closest at the moment, cannot. On a linear classifier it is exact once every wrong class is a
    target.
    """

    num_steps: int = 20
    num_targets: int = 9
    step_fraction: float = 2.0

    def __post_init__(self) -> None:
        _check(self.step_fraction, num_steps=self.num_steps, num_targets=self.num_targets)

    @property
    def name(self) -> str:
        return f"targeted-pgd-{self.num_steps}x{self.num_targets}"

    @checked
    @torch.no_grad()
    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        check_examples(inputs, labels, threat_model)
        outputs = checked_outputs(classifier, inputs, labels)
        ranked = outputs.scatter(1, labels[:, None], -math.inf).argsort(dim=1, descending=True, stable=True)
        search = _Search(self, classifier, inputs, labels, threat_model, until_fooled)
        for rivals in ranked[:, : min(self.num_targets, outputs.shape[1] - 1)].unbind(1):
            search.descend(threat_model.starts(inputs, generator), rivals)
        return search.worst.inputs


class _Search:
    """The descents of one call of `perturb`, and the worst input found so far for each example."""

    def __init__(
        self,
        attack: PGD | TargetedPGD,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        until_fooled: bool,
    ) -> None:
        self.num_steps, self.first_step = attack.num_steps, attack.step_fraction * threat_model.epsilon
        self.classifier, self.inputs, self.labels, self.threat_model = classifier, inputs, labels, threat_model
        self.until_fooled = until_fooled
        self.worst = Worst(inputs, labels)

    def descend(self, starts: Tensor, rivals: Tensor | None) -> None:
        """Walks from `starts` [N, ...] towards the classes `rivals` [N] or, without them, away from the labels."""
        standing = self.worst.left(self.until_fooled)
        current, clean = starts[standing], self.inputs[standing]
        step = torch.full_like(self.worst.margin[standing], self.first_step)
        lowest = torch.full_like(step, math.inf)
        stalled = torch.zeros_like(standing)
        for _ in range(self.num_steps):
            if len(standing) == 0:
                return
            towards = None if rivals is None else rivals[standing]
            outputs, margin, gradient = margin_gradient(self.classifier, current, self.labels[standing], towards)
            fooled = self.worst.keep(standing, current, outputs)
            stalled = torch.where(margin < lowest, 0, stalled + 1)
            lowest = torch.minimum(lowest, margin)
            step = torch.where(stalled == 2, step / 2, step)
            stalled = stalled % 2
            direction = self.threat_model.steepest(gradient)
            current = self.threat_model.project(current + each(step, current) * direction, clean)
            if self.until_fooled and fooled.any():
                left = ~fooled
                standing, current, clean = standing[left], current[left], clean[left]
                step, lowest, stalled = step[left], lowest[left], stalled[left]
        if len(standing):
            self.worst.keep(standing, current, checked_outputs(self.classifier, current, self.labels[standing]))


def _check(step_fraction: float, **counts: int) -> None:
    check_counts(**counts)
    if not (math.isfinite(step_fraction) and step_fraction > 0):
        raise UsageError(f"step_fraction is {step_fraction}: give a finite number above 0, relative to epsilon")
