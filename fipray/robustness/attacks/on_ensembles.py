"""Attacks on ensembles that follow other gradients than those of the average, where members that are sure have none."""

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
from fipray.robustness.attacks.gradient import PGD, Attack
from fipray.robustness.ensembles import Ensemble, StackedEnsemble, averaged
from fipray.robustness.margin import Classifier
from fipray.robustness.threat_models import ThreatModel


@spec("on_logits")
@checked
@dataclass(frozen=True)
class OnLogits:
    """An attack with the gradients of the members' mean logits, whatever the ensemble averages; the outputs it sees,
    and so what counts as fooled, stay the ensemble's.

    For a classifier that is no ensemble, or averages logits, it is the attack itself.
    """

    attack: Attack

    @property
    def name(self) -> str:
        return f"{self.attack.name}-on-logits"

    @checked
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
        guided = _guided(classifier, lambda outputs, _: outputs.mean(0))
        return self.attack.perturb(guided, inputs, labels, threat_model, generator, until_fooled=until_fooled)


@spec("reweighed_pgd")
@checked
@dataclass(frozen=True)
class ReweighedPGD:
    """`PGD` with the gradients of `sum_m w_m z_m / sum_m w_m`, w as of `member_weights` at each iterate; the outputs it
    sees, and so what counts as fooled, stay the ensemble's.

    After MORA (Yu et al. 2022), with PGD's steps, none of the average's own gradient mixed in, and, where members
    average probabilities, none of a member that the others have outvoted already. For a classifier that is no ensemble
    it is PGD.
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

    @checked
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
        guided = _guided(classifier, self._reweighed)
        return self._pgd().perturb(guided, inputs, labels, threat_model, generator, until_fooled=until_fooled)

    def _pgd(self) -> PGD:
        return PGD(self.num_steps, self.num_restarts, self.step_fraction)

    def _reweighed(self, outputs: Tensor, average: Tensor) -> Tensor:
        seen = outputs.detach()
        weights = member_weights(seen, self.softness)
        agreeing = seen.argmax(2) == average.argmax(1)
        weights = torch.where(agreeing | ~agreeing.any(0), weights, 0)
        shares = weights / weights.sum(0).clamp_min(torch.finfo(weights.dtype).tiny)
        return (shares[..., None] * outputs).sum(0)


def member_weights(outputs: Tensor, softness: float = 1.0) -> Tensor:
    """How far each member [M, N] of outputs z [M, N, C] can still move the ensemble, from 0 to M.

    With p_m = softmax(softness z_m), their mean P, its likeliest class y and the next one, k, it is M times the
    derivative of log P_k - log P_y in z_mk over softness,

        w_m = p_mk (p_my / P_y + (1 - p_mk) / P_k).

    Softened, so that a member that is sure of itself keeps some: where the two largest logits of any are more than 10
    apart, all of the example's are scaled to that (Yu et al. 2022). At softness 0 all members weigh alike.
    """
    two = outputs.topk(2, dim=2).values
    scale = ((two[..., 0] - two[..., 1]).amax(0) / _LARGEST_GAP).clamp_min(1)
    shares = torch.softmax(softness * outputs / scale[:, None], 2)
    mean = shares.mean(0)
    likeliest, rivals = averaged(outputs, "probabilities").topk(2, dim=1).indices.unbind(1)

    def of(classes: Tensor, shares: Tensor) -> Tensor:
        return shares.gather(-1, classes[..., None].expand(*shares.shape[:-1], 1)).squeeze(-1)

    rival = of(rivals, shares)
    return rival * (of(likeliest, shares) / of(likeliest, mean) + (1 - rival) / of(rivals, mean))


_LARGEST_GAP = 10.0


def _guided(classifier: Classifier, guide: Callable[[Tensor, Tensor], Tensor]) -> Classifier:
    """The ensemble with its own outputs and the gradients of `guide(member outputs [M, N, C], outputs [N, C])` [N, C];
    a classifier that is none as it is.
    """
    if not isinstance(classifier, (Ensemble, StackedEnsemble)):
        return classifier

    def guided(inputs: Tensor) -> Tensor:
        members = classifier.member_outputs(inputs)
        outputs = averaged(members, classifier.average).detach()
        return _WithGradientOf.apply(outputs, guide(members, outputs))

    return guided


class _WithGradientOf(torch.autograd.Function):
    """The first tensor, exactly, with the gradient of the second."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, guide: Tensor) -> Tensor:
        return outputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]
