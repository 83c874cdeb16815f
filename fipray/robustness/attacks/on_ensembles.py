"""Attacks on ensembles along other gradients than the average's, which vanishes where members are confident."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec
from fipray.robustness.attacks.attack import Attack, BuiltInAttack
from fipray.robustness.attacks.gradient import PGD
from fipray.robustness.attacks.search import Search
from fipray.robustness.ensembles import Ensemble, StackedEnsemble, averaged, weighted_mean
from fipray.robustness.margin import Classifier

Guide = Callable[[Tensor, Tensor, tuple[float, ...]], Tensor]
"""Member outputs [M, N, C], ensemble outputs [N, C], fractions [M] or none -> [N, C] whose gradient is followed."""

_LARGEST_GAP = 10.0  # between the two largest logits of a member (Yu et al. 2022)


@spec("on_logits")
@checked
@dataclass(frozen=True)
class OnLogits(BuiltInAttack):
    """An attack along the gradient of the members' mean logits, whatever the ensemble averages.

    The mean has the ensemble's weights, of logits divided by its temperatures.

    The attack still sees the ensemble's own outputs, which decide what is fooled. On a classifier that is no ensemble,
    or that averages logits, it is the attack itself.

    Args:
        attack: attack to run with these gradients.
    """

    attack: Attack

    @property
    def name(self) -> str:
        return f"{self.attack.name}-on-logits"

    def _adversarial(self, search: Search) -> Tensor:
        return _attacked(self.attack, lambda outputs, _, fractions: weighted_mean(outputs, fractions), search)


@spec("reweighed_pgd")
@checked
@dataclass(frozen=True)
class ReweighedPGD(BuiltInAttack):
    """`PGD` along the gradient of a weighted mean of the members' logits, `sum_m w_m z_m / sum_m w_m`.

    The weights w are `member_weights` at each iterate. The attack still sees the ensemble's own outputs, which decide
    what is fooled. After MORA (Yu et al. 2022), with PGD's step sizes, without the average's own gradient mixed in, and
    with weight 0 for members that predict another class than the ensemble. On a classifier that is no ensemble it is
    PGD.

    Args:
        num_steps: see `PGD`.
        num_restarts: see `PGD`.
        step_fraction: see `PGD`.
        softness: factor of the members' logits in the weights, finite and at least 0; 0 leaves the ensemble's own
            weights.

    Raises:
        UsageError: for a number out of range.
    """

    num_steps: int = 20
    num_restarts: int = 1
    step_fraction: float = 2.0
    softness: float = 1.0

    def __post_init__(self) -> None:
        self._pgd()
        if not (math.isfinite(self.softness) and self.softness >= 0):
            raise UsageError(f"softness is {self.softness}: give a finite number of at least 0")

    @property
    def name(self) -> str:
        return f"reweighed-{self._pgd().name}"

    def _adversarial(self, search: Search) -> Tensor:
        return _attacked(self._pgd(), self._reweighed, search)

    def _pgd(self) -> PGD:
        return PGD(self.num_steps, self.num_restarts, self.step_fraction)

    def _reweighed(self, outputs: Tensor, average: Tensor, fractions: tuple[float, ...]) -> Tensor:
        # The weights are constants: only the logits that they multiply are differentiated.
        values = outputs.detach()
        weights = member_weights(values, self.softness, fractions)
        agreeing = values.argmax(2) == average.argmax(1)
        # An average of logits may choose a class that no member does: then all members keep their weights.
        weights = torch.where(agreeing | ~agreeing.any(0), weights, 0)
        # All weights of an example may underflow to 0; its gradient is then 0 instead of NaN.
        relative = weights / weights.sum(0).clamp_min(torch.finfo(weights.dtype).tiny)
        return (relative[..., None] * outputs).sum(0)


def member_weights(outputs: Tensor, softness: float = 1.0, fractions: tuple[float, ...] = ()) -> Tensor:
    """Influence of each member on the ensemble's decision, 0..M.

    With p_m = softmax(softness z_m), their mean P = sum_m a_m p_m (a_m is 1 / M by default), its likeliest class y and
    the next one, k, it is M times the derivative of log P_k - log P_y in z_mk over softness,

        w_m = M a_m p_mk (p_my / P_y + (1 - p_mk) / P_k).

    Where the two largest logits of any member are more than 10 apart, all logits of the example are scaled down to that
    gap, so that a confident member keeps some weight (Yu et al. 2022).

    Args:
        outputs: logits z of the members [M, N, C].
        softness: factor of the logits, at least 0; 0 gives M a_m.
        fractions: weights a of the members in the ensemble, which sum to 1; empty for equal weights.

    Returns:
        Weights [M, N].
    """
    two = outputs.topk(2, dim=2).values
    scale = ((two[..., 0] - two[..., 1]).amax(0) / _LARGEST_GAP).clamp_min(1)
    probabilities = torch.softmax(softness * outputs / scale[:, None], 2)
    mean = weighted_mean(probabilities, fractions)
    # In logarithms: the two likeliest of saturated members would tie as probabilities.
    likeliest, rivals = averaged(outputs, "probabilities", fractions).topk(2, dim=1).indices.unbind(1)

    def of(classes: Tensor, probabilities: Tensor) -> Tensor:
        return probabilities.gather(-1, classes[..., None].expand(*probabilities.shape[:-1], 1)).squeeze(-1)

    rival = of(rivals, probabilities)
    weights = rival * (of(likeliest, probabilities) / of(likeliest, mean) + (1 - rival) / of(rivals, mean))
    if not fractions:
        return weights
    return torch.stack([len(weights) * one * each for each, one in zip(weights, fractions, strict=True)])


def _attacked(attack: Attack, guide: Guide, search: Search) -> Tensor:
    """Run an attack along the gradients of a guide, and return its inputs [N, ...]."""
    return attack.perturb(
        _guided(search.classifier, guide),
        search.inputs,
        search.labels,
        search.threat_model,
        search.generator,
        until_fooled=search.until_fooled,
    )


def _guided(classifier: Classifier, guide: Guide) -> Classifier:
    """Give an ensemble the gradients of a guide, its outputs unchanged; return any other classifier as it is."""
    if not isinstance(classifier, (Ensemble, StackedEnsemble)):
        return classifier

    def guided(inputs: Tensor) -> Tensor:
        members = classifier.member_outputs(inputs)
        # Its graph is never followed, as the gradient is that of the guide.
        fractions = classifier.fractions
        outputs = averaged(members, classifier.average, fractions).detach()
        return _WithGradientOf.apply(outputs, guide(members, outputs, fractions))

    return guided


class _WithGradientOf(torch.autograd.Function):
    """The first tensor, exactly, with the gradient of the second.

    `outputs + guide - guide.detach()` would have the same gradient, but would round.
    """

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, guide: Tensor) -> Tensor:
        return outputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]
