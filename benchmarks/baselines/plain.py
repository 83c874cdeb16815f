"""Ensembles by training alone: independent networks, and networks that one training passes through."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from benchmarks.baselines.optimizers import Momentum
from benchmarks.baselines.training import (
    Make,
    Trained,
    check_base,
    check_members,
    check_positive,
    cross_entropy,
    opened,
)


@dataclass(frozen=True)
class DeepEnsemble:
    """Independent networks (Lakshminarayanan et al. 2017), without their adversarial inputs; `num_steps` each."""

    num_members: int = 5
    num_steps: int = 3000
    batch_size: int = 128
    rate: float = 2e-3

    def __post_init__(self) -> None:
        check_members(self.num_members)
        check_positive(num_steps=self.num_steps, batch_size=self.batch_size, rate=self.rate)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        with opened(make, inputs, labels, seed=seed, seconds=seconds, batch_size=self.batch_size) as training:
            return training.ended(training.independent(self.num_members, cross_entropy, self.num_steps, self.rate))


@dataclass(frozen=True)
class Snapshot:
    """Snapshot ensemble (Huang et al. 2017, equation 2).

    One training whose learning rate repeatedly falls from `rate` to 0 along a cosine; each cycle of `num_steps` ends
    with a
    member.
    """

    num_members: int = 5
    num_steps: int = 3000
    batch_size: int = 64
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_members(self.num_members)
        check_positive(num_steps=self.num_steps, batch_size=self.batch_size, rate=self.rate)

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        with opened(make, inputs, labels, seed=seed, seconds=seconds, batch_size=self.batch_size) as training:
            member = make().train()
            loss = partial(cross_entropy, member)
            optimizer = Momentum(member, self.momentum, self.weight_decay)
            members = []
            for number in range(self.num_members):
                shares = training.shares(self.num_steps, number / self.num_members, (number + 1) / self.num_members)
                training.descend(optimizer, partial(falling, rate=self.rate), loss, shares)
                members.append(copy.deepcopy(member))
            return training.ended(tuple(members))


@dataclass(frozen=True)
class FastGeometricEnsemble:
    """Fast geometric ensemble (Garipov et al. 2018, section 5; rates and momentum are their code's defaults).

    From a trained network, the learning rate moves between `high` and `low` along triangles; each minimum is a member.

    The base is trained for `base_share` of the seconds or `base_steps`, by Adam as the other baselines; with
    `base_steps` 0 `make` gives it. `num_steps` a cycle: the first member comes after half a cycle.
    """

    num_members: int = 5
    num_steps: int = 400
    base_steps: int = 3000
    base_share: float = 0.8
    batch_size: int = 128
    rate: float = 2e-3
    high: float = 0.05
    low: float = 1e-4
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        check_members(self.num_members)
        check_base(self.base_steps, self.base_share)
        check_positive(
            num_steps=self.num_steps, batch_size=self.batch_size, rate=self.rate, high=self.high, low=self.low
        )

    def train(self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None) -> Trained:
        with opened(make, inputs, labels, seed=seed, seconds=seconds, batch_size=self.batch_size) as training:
            begin = self.base_share if self.base_steps else 0.0
            (member,) = training.independent(1, cross_entropy, self.base_steps, self.rate, end=begin)
            loss = partial(cross_entropy, member)
            optimizer = Momentum(member, self.momentum, self.weight_decay)
            cycle = (1 - begin) / (self.num_members - 0.5)
            members = []
            for number in range(self.num_members):
                num_steps = self.num_steps if number else max(1, self.num_steps // 2)
                end = begin + cycle * (1 if number else 0.5)
                shares = training.shares(num_steps, begin, end)
                settings = partial(triangle, high=self.high, low=self.low, begin=0.0 if number else 0.5)
                training.descend(optimizer, settings, loss, shares)
                members.append(copy.deepcopy(member))
                begin = end
            return training.ended(tuple(members))


def falling(fraction: float, rate: float) -> dict[str, float]:
    """Half a cosine, from `rate` down to 0."""
    return {"rate": rate * (1 + math.cos(math.pi * fraction)) / 2}


def triangle(fraction: float, high: float, low: float, begin: float = 0.0) -> dict[str, float]:
    """Yield the learning rates of one triangular cycle, or of the part that is left after the fraction `begin`."""
    return {"rate": low + (high - low) * (1 - abs(2 * (begin + (1 - begin) * fraction) - 1))}
