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

    With weights w_m and temperatures T_m its outputs [N, C] are `log sum_m w_m softmax(z_m / T_m)`, or `sum_m w_m z_m`
    for an average of logits; by default w_m is 1 / M and T_m is 1. It is deterministic and differentiable, so white-box
    attacks see the whole ensemble. A member with a single output z is a two-class classifier with the logits (0, z).

    Two members, an accurate and a robust one, make a mixture as of Bai et al. (2023, adaptive smoothing; 2024,
    MixedNUTS); `fip.robustness.mixture` chooses its weights and temperatures.

    Args:
        members: classifiers, at least one.
        average: "probabilities" or "logits".
        weights: weight of each member, finite and above 0; divided by their sum. Empty for equal weights.
        temperatures: number by which the logits of each member are divided, finite and above 0. Below 1 a member
            becomes more confident. Empty for 1. With an average of probabilities only.

    Raises:
        UsageError: for no members, an unknown average, weights or temperatures of another number or out of range, and
            temperatures with an average of logits.
    """

    members: Sequence[Classifier]
    average: Average = "probabilities"
    weights: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check(len(self.members), self.average, self.weights, self.temperatures)

    @property
    def fractions(self) -> tuple[float, ...]:
        """Weights of the members, which sum to 1; empty for equal weights."""
        return fractions_of(self.weights)

    def member_outputs(self, inputs: Tensor) -> Tensor:
        """Compute the outputs of each member.

        Args:
            inputs: inputs [N, ...].

        Returns:
            Logits [M, N, C], divided by the temperatures.
        """
        return _tempered(torch.stack([class_logits(member(inputs)) for member in self.members]), self.temperatures)

    def __call__(self, inputs: Tensor) -> Tensor:
        return averaged(self.member_outputs(inputs), self.average, self.fractions)


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
        member_weights: weight of each member in the average; see `weights` of `Ensemble`.
        temperatures: see `Ensemble`.

    Raises:
        UsageError: see `Ensemble`.
    """

    network: Network
    weights: Stack
    average: Average = "probabilities"
    chunk: int | None = None
    member_weights: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check(len(self.weights), self.average, self.member_weights, self.temperatures)

    @property
    def fractions(self) -> tuple[float, ...]:
        """Weights of the members in the average, which sum to 1; empty for equal weights."""
        return fractions_of(self.member_weights)

    def member_outputs(self, inputs: Tensor) -> Tensor:
        """Compute the outputs of each member.

        Args:
            inputs: inputs [N, ...].

        Returns:
            Logits [M, N, C], divided by the temperatures.
        """
        outputs = class_logits(self.network.stacked(self.weights, inputs, chunk=self.chunk), 2)
        return _tempered(outputs, self.temperatures)

    def __call__(self, inputs: Tensor) -> Tensor:
        return averaged(self.member_outputs(inputs), self.average, self.fractions)


def averaged(outputs: Tensor, average: Average, fractions: tuple[float, ...] = ()) -> Tensor:
    """Average the outputs of an ensemble's members.

    Args:
        outputs: logits or log-probabilities [M, N, C].
        average: quantity to average.
        fractions: weights of the members [M], above 0, which sum to 1; empty for equal weights.

    Returns:
        Log-probabilities [N, C] of the mean probabilities, or mean logits [N, C].
    """
    if average == "logits":
        return weighted_mean(outputs, fractions)
    # In logarithms throughout, so that a probability too small for its dtype still has a gradient.
    logs = torch.log_softmax(outputs, 2)
    if not fractions:
        return logs.logsumexp(0) - math.log(len(outputs))
    return torch.stack([each + math.log(one) for each, one in zip(logs, fractions, strict=True)]).logsumexp(0)


def weighted_mean(values: Tensor, fractions: tuple[float, ...]) -> Tensor:
    """Mean over an ensemble's members.

    Args:
        values: values [M, ...].
        fractions: weights of the members [M], which sum to 1; empty for equal weights.

    Returns:
        Weighted mean [...].
    """
    if not fractions:
        return values.mean(0)
    # Plain numbers: a tensor of them would have to be copied to a GPU in every pass.
    return torch.stack([one * each for each, one in zip(values, fractions, strict=True)]).sum(0)


def fractions_of(weights: tuple[float, ...]) -> tuple[float, ...]:
    """Weights divided by their sum.

    Args:
        weights: finite numbers above 0; may be empty.

    Returns:
        Numbers that sum to 1.
    """
    return tuple(each / math.fsum(weights) for each in weights)


def check_mixing(num_members: int, weights: tuple[float, ...], temperatures: tuple[float, ...]) -> None:
    """Check weights and temperatures of an ensemble's members.

    Args:
        num_members: number of members.
        weights: one for each member, or none.
        temperatures: one for each member, or none.

    Raises:
        UsageError: for another number of them, and for one that is not finite and above 0.
    """
    for name, numbers in (("weights", weights), ("temperatures", temperatures)):
        if numbers and len(numbers) != num_members:
            raise UsageError(
                f"{name} are {numbers}, {len(numbers)} for {num_members} members: give one for each member, or none"
            )
        if not all(math.isfinite(each) and each > 0 for each in numbers):
            raise UsageError(f"{name} are {numbers}: give finite numbers above 0")
    if not all(each > 0 for each in fractions_of(weights)):
        raise UsageError(f"weights are {weights}: give numbers whose ratios floating point can hold")


def _tempered(outputs: Tensor, temperatures: tuple[float, ...]) -> Tensor:
    """Logits [M, N, C] divided by the temperatures [M], if there are any."""
    if not temperatures:
        return outputs
    return torch.stack([each / one for each, one in zip(outputs, temperatures, strict=True)])


def _check(num_members: int, average: Average, weights: tuple[float, ...], temperatures: tuple[float, ...]) -> None:
    if num_members == 0:
        raise UsageError("the ensemble has no members: give one classifier or more")
    check_mixing(num_members, weights, temperatures)
    if temperatures and average == "logits":
        raise UsageError(
            f"temperatures={temperatures} with an average of logits: leave them out, or average probabilities"
        )
