"""White-box attacks along the margin's gradient: FGSM, PGD and targeted PGD."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import final

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec
from fipray.robustness.attacks.attack import BuiltInAttack
from fipray.robustness.attacks.search import Search
from fipray.robustness.margin import check_counts, checked_outputs, margin_gradient
from fipray.robustness.threat_models import each


@spec("fgsm")
@checked
@dataclass(frozen=True)
class FGSM(BuiltInAttack):
    """Fast gradient sign method: one step of length epsilon from the clean input (Goodfellow et al. 2015).

    In l2 the step goes along the normalised gradient. Costs one gradient an example.
    """

    @property
    def name(self) -> str:
        return "fgsm"

    @torch.no_grad()
    def _adversarial(self, search: Search) -> Tensor:
        threat_model = search.threat_model
        _, _, gradient = margin_gradient(search.classifier, search.inputs, search.labels)
        return threat_model.project(
            search.inputs + threat_model.epsilon * threat_model.steepest(gradient), search.inputs
        )


class Descent(BuiltInAttack):
    """Projected gradient descents on the margin from random starts, the worst iterate kept for each example.

    Subclasses have the fields `num_steps` and `step_fraction`, and name the class that each descent is aimed at.
    """

    num_steps: int
    step_fraction: float

    @abstractmethod
    def _rivals(self, search: Search) -> Iterable[Tensor | None]:
        """Wrong classes [N] for each descent to aim at; None to descend the margin against all of them."""

    @final
    @torch.no_grad()
    def _adversarial(self, search: Search) -> Tensor:
        # Without gradients: `margin_gradient` enables them for itself, and no other graph is needed.
        for rivals in self._rivals(search):
            self._descend(search, search.starts(), rivals)
        return search.worst

    @final
    def _descend(self, search: Search, starts: Tensor, rivals: Tensor | None) -> None:
        """One descent from `starts` [N, ...]."""
        remaining, threat_model = search.remaining(), search.threat_model
        current, clean, labels = starts[remaining], search.inputs[remaining], search.labels[remaining]
        towards = None if rivals is None else rivals[remaining]
        project = threat_model.projection(clean)
        # A step size for each example: one that stalls says nothing about the others.
        step = torch.full_like(search.margin[remaining], self.step_fraction * threat_model.epsilon)
        lowest = torch.full_like(step, math.inf)
        num_stalled = torch.zeros_like(labels)  # steps in a row that brought no new lowest margin
        for _ in range(self.num_steps):
            if len(labels) == 0:
                return
            outputs, margin, gradient = margin_gradient(
                search.classifier, current, labels, towards, are_checked=search.labels_are_checked()
            )
            fooled = search.keep(remaining, current, outputs, margin if towards is None else None)
            # By the margin that is descended, which for a target is another than the one by which inputs are kept.
            num_stalled = torch.where(margin < lowest, 0, num_stalled + 1)
            lowest = torch.minimum(lowest, margin)
            step = torch.where(num_stalled == 2, step / 2, step)
            # Counted anew after a step was halved.
            num_stalled = num_stalled % 2
            # In place: inputs take longer to allocate than to add.
            current = project(threat_model.steepest(gradient).mul_(each(step, current)).add_(current))
            # Fooled examples leave the batch, so that later steps cost less.
            if search.until_fooled:
                (left,) = torch.where(~fooled)
                if len(left) < len(labels):
                    remaining = left if isinstance(remaining, slice) else remaining[left]
                    current, clean, labels = current[left], clean[left], labels[left]
                    project = threat_model.projection(clean)
                    towards = None if towards is None else towards[left]
                    step, lowest, num_stalled = step[left], lowest[left], num_stalled[left]
        # The loop judges an iterate with the gradient of the next step, so the last one takes a forward pass more.
        if len(labels):
            search.keep(remaining, current, checked_outputs(search.classifier, current, None))


@spec("pgd")
@checked
@dataclass(frozen=True)
class PGD(Descent):
    """Projected gradient descent on the margin (Madry et al. 2018) from random starts; each example's worst iterate.

    An example's step is halved whenever two steps in a row brought it no new lowest margin. This schedule needs no
    tuning and does not depend on `num_steps`, so the iterates of a short attack are the first iterates of a longer one;
    the attack is as strong as APGD (Croce & Hein 2020), whose first step is 2 epsilon too.

    Costs num_steps gradients and one forward pass a restart, for the examples still attacked.

    Args:
        num_steps: gradient steps of each restart, at least 1.
        num_restarts: random starts, at least 1.
        step_fraction: length of the first step relative to epsilon, above 0.

    Raises:
        UsageError: for a count below 1, or a step_fraction that is not above 0 and finite.
    """

    num_steps: int = 20
    num_restarts: int = 1
    step_fraction: float = 2.0

    def __post_init__(self) -> None:
        _check(self.step_fraction, num_steps=self.num_steps, num_restarts=self.num_restarts)

    @property
    def name(self) -> str:
        return f"pgd-{self.num_steps}x{self.num_restarts}"

    def _rivals(self, search: Search) -> Iterable[None]:
        return repeat(None, self.num_restarts)


@spec("targeted_pgd")
@checked
@dataclass(frozen=True)
class TargetedPGD(Descent):
    """PGD towards one wrong class at a time, from a random start each; the targets are those of largest clean output.

    It descends z_y - z_k, as APGD-T does (Croce & Hein 2020), and finds inputs that the untargeted attack misses, which
    follows whichever class is closest at the moment. On a linear classifier it is exact once every wrong class is a
    target. Costs num_steps gradients and one forward pass a target, and one forward pass to rank the targets.

    Args:
        num_steps: gradient steps towards each target, at least 1.
        num_targets: wrong classes to aim at, at least 1; all of them where there are fewer.
        step_fraction: length of the first step relative to epsilon, above 0.

    Raises:
        UsageError: for a count below 1, or a step_fraction that is not above 0 and finite.
    """

    num_steps: int = 20
    num_targets: int = 9
    step_fraction: float = 2.0

    def __post_init__(self) -> None:
        _check(self.step_fraction, num_steps=self.num_steps, num_targets=self.num_targets)

    @property
    def name(self) -> str:
        return f"targeted-pgd-{self.num_steps}x{self.num_targets}"

    def _rivals(self, search: Search) -> Iterable[Tensor]:
        search.labels_are_checked()
        outputs = checked_outputs(search.classifier, search.inputs, search.labels)
        # Stable: equal outputs keep the order of their classes.
        ranked = outputs.scatter(1, search.labels[:, None], -math.inf).argsort(dim=1, descending=True, stable=True)
        return ranked[:, : min(self.num_targets, outputs.shape[1] - 1)].unbind(1)


def _check(step_fraction: float, **counts: int) -> None:
    check_counts(**counts)
    if not (math.isfinite(step_fraction) and step_fraction > 0):
        raise UsageError(f"step_fraction is {step_fraction}: give a finite number above 0, relative to epsilon")
