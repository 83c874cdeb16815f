"""Networks judged together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import class_logits
from fipray.networks import Network
from fipray.networks.arrays import Stack
from fipray.robustness.margin import Classifier

Average = Literal["probabilities", "logits"]
"""What of the members is averaged: class probabilities, or what they give as it is (logits)."""


@checked
@dataclass(frozen=True)
class Ensemble:
    """The classifier that averages its members' class probabilities, `log mean_m softmax(z_m)` [N, C], or their logits,
    `mean_m z_m` [N, C].

    A member with a single output z is a two-class classifier, of the logits (0, z).
    Deterministic and differentiable, so that a white-box attack sees all of it. Computed in logarithms: a probability
    too small for its dtype still has a gradient.

    Raises UsageError for no members, or an unknown average.
    """

    members: Sequence[Classifier]
    average: Average = "probabilities"

    def __post_init__(self) -> None:
        _check(len(self.members))

    def member_outputs(self, inputs: Tensor) -> Tensor:
        """What each member gives, [M, N, C]."""
        return torch.stack([class_logits(member(inputs)) for member in self.members])

    def __call__(self, inputs: Tensor) -> Tensor:
        return averaged(self.member_outputs(inputs), self.average)


@checked
@dataclass(frozen=True, eq=False)
class StackedEnsemble:
    """The `Ensemble` of one network at several `weights` [M, P], computed together (`Network.stacked`), `chunk` members
    at a time or all.

    Raises as `Ensemble` does.
    """

    network: Network
    weights: Stack
    average: Average = "probabilities"
    chunk: int | None = None

    def __post_init__(self) -> None:
        _check(len(self.weights))

    def member_outputs(self, inputs: Tensor) -> Tensor:
        """What each member gives, [M, N, C]."""
        return class_logits(self.network.stacked(self.weights, inputs, chunk=self.chunk), 2)

    def __call__(self, inputs: Tensor) -> Tensor:
        return averaged(self.member_outputs(inputs), self.average)


def averaged(outputs: Tensor, average: Average) -> Tensor:
    """The ensemble's log-probabilities or logits [N, C] of its members' outputs [M, N, C]."""
    if average == "logits":
        return outputs.mean(0)
    return torch.log_softmax(outputs, 2).logsumexp(0) - math.log(len(outputs))


def _check(num_members: int) -> None:
    if num_members == 0:
        raise UsageError("an ensemble has no members: give one classifier or more")
