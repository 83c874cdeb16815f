"""Ensembles: classifiers that average the outputs of their members."""

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
"""Quantity of the members that is averaged: class probabilities, or their outputs as they are (logits)."""


@checked
@dataclass(frozen=True)
class Ensemble:
    """Classifier that averages its members.

    Its outputs [N, C] are `log mean_m softmax(z_m)`, or `mean_m z_m` for an average of logits. It is deterministic and
    differentiable, so white-box attacks see the whole ensemble. A member with a single output z is a two-class
    classifier with the logits (0, z).

    Args:
        members: classifiers, at least one.
        average: "probabilities" or "logits".

    Raises:
        UsageError: for no members, or an unknown average.
    """

    members: Sequence[Classifier]
    average: Average = "probabilities"

    def __post_init__(self) -> None:
        _check(len(self.members))

    def member_outputs(self, inputs: Tensor) -> Tensor:
        """Compute the outputs of each member.

        Args:
            inputs: inputs [N, ...].

        Returns:
            Logits [M, N, C].
        """
        return torch.stack([class_logits(member(inputs)) for member in self.members])

    def __call__(self, inputs: Tensor) -> Tensor:
        return averaged(self.member_outputs(inputs), self.average)


@checked
# Compared by identity: a generated == would compare tensors, which gives tensors instead of a truth value.
@dataclass(frozen=True, eq=False)
class StackedEnsemble:
    """`Ensemble` of one network at several weights, computed together (`Network.stacked`).

    Args:
        network: the network as a function of flat weights.
        weights: weights of the members [M, P], M at least 1.
        average: see `Ensemble`.
        chunk: members computed at a time; None for all.

    Raises:
        UsageError: for no members, or an unknown average.
    """

    network: Network
    weights: Stack
    average: Average = "probabilities"
    chunk: int | None = None

    def __post_init__(self) -> None:
        _check(len(self.weights))

    def member_outputs(self, inputs: Tensor) -> Tensor:
        """Compute the outputs of each member.

        Args:
            inputs: inputs [N, ...].

        Returns:
            Logits [M, N, C].
        """
        return class_logits(self.network.stacked(self.weights, inputs, chunk=self.chunk), 2)

    def __call__(self, inputs: Tensor) -> Tensor:
        return averaged(self.member_outputs(inputs), self.average)


def averaged(outputs: Tensor, average: Average) -> Tensor:
    """Average the outputs of an ensemble's members.

    Args:
        outputs: logits or log-probabilities [M, N, C].
        average: quantity to average.

    Returns:
        Log-probabilities [N, C] of the mean probabilities, or mean logits [N, C].
    """
    if average == "logits":
        return outputs.mean(0)
    # In logarithms throughout, so that a probability too small for its dtype still has a gradient.
    return torch.log_softmax(outputs, 2).logsumexp(0) - math.log(len(outputs))


def _check(num_members: int) -> None:
    if num_members == 0:
        raise UsageError("the ensemble has no members: give one classifier or more")
