"""What all baselines share: a budget in steps or in processor seconds, and Adam whose rate rises and falls once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from benchmarks.baselines.optimizers import Adam, Optimizer, Orthogonal
from benchmarks.baselines.variations import Vary
from fipray import ThreatModel
from fipray.errors import UsageError
from fipray.robustness.margin import check_examples

Make = Callable[[], nn.Module]
Settings = Callable[[float], Mapping[str, float]]
"""share of the budget that is spent, 0..1 -> settings of the optimizer"""


@dataclass(frozen=True, eq=False)
class Trained:
    """Members in evaluation mode, and what they cost: steps of the optimizers and processor seconds, all together."""

    members: tuple[nn.Module, ...]
    num_steps: int
    processor_seconds: float


class Baseline(Protocol):
    """A recipe for networks that are trained with labels."""

    def train(
        self, make: Make, inputs: Tensor, labels: Tensor, *, seed: int, seconds: float | None = None
    ) -> Trained: ...


class Training:
    """One call of `train`: its draws, its batches and its budget. `opened` makes one."""

    def __init__(
        self,
        make: Make,
        inputs: Tensor,
        labels: Tensor,
        seed: int,
        seconds: float | None,
        batch_size: int,
        vary: Vary | None = None,
    ) -> None:
        self.began = time.process_time()
        self.make, self.inputs, self.labels, self.seconds, self.vary = make, inputs, labels, seconds, vary
        self.generator = torch.Generator().manual_seed(seed)
        self.batches = self._batches(min(batch_size, len(inputs)))
        self.num_steps = 0

    @property
    def processor_seconds(self) -> float:
        """Spent so far."""
        return time.process_time() - self.began

    def shares(self, num_steps: int, begin: float = 0.0, end: float = 1.0) -> Iterator[float]:
        """Yield the spent fraction, 0..1, of a part of the budget before each of its steps; at least one step.

        The part is `num_steps` or, where there are seconds, what remains until the share `end` of them is spent; it
        should have begun at the share `begin`, and is shorter where the part before it ended late.
        """
        step = 0
        while True:
            if self.seconds is None:
                fraction = step / num_steps
            else:
                fraction = max(0.0, (self.processor_seconds / self.seconds - begin) / (end - begin))
            if fraction >= 1 and step:
                return
            yield min(fraction, 1.0)
            step += 1
            self.num_steps += 1

    def descend(
        self,
        optimizer: Optimizer,
        settings: Settings,
        loss: Callable[[Tensor, Tensor], Tensor],
        shares: Iterator[float],
        after: Callable[[int], None] | None = None,
    ) -> None:
        """Take one step on the loss of a batch per fraction; then call `after` with the number of steps."""
        for count, fraction in enumerate(shares, 1):
            gradients = torch.autograd.grad(loss(*next(self.batches)), optimizer.weights)
            optimizer.step(list(gradients), settings(fraction))
            if after is not None:
                after(count)

    def one_cycle(
        self,
        members: tuple[nn.Module, ...],
        loss: Callable[[Tensor, Tensor], Tensor],
        shares: Iterator[float],
        rate: float,
        averaging: float = 0.0,
        *,
        orthogonal: bool = False,
    ) -> None:
        """Train all members together with Adam, or along orthogonal matrices, and a one-cycle learning rate.

        With `averaging` they end at their exponential moving average of this decay (BatchNorm statistics included);
        after n steps
        the decay is at most (1 + n) / (10 + n).
        """
        live = [value for member in members for value in member.state_dict().values() if value.is_floating_point()]
        average = [value.clone() for value in live]

        def follow(count: int) -> None:
            torch._foreach_lerp_(average, live, 1 - min(averaging, (1 + count) / (10 + count)))

        optimizer = Orthogonal(members) if orthogonal else Adam(members)
        self.descend(optimizer, partial(one_cycle, rate=rate), loss, shares, follow if averaging else None)
        if averaging:
            torch._foreach_copy_(live, average)

    def independent(
        self,
        num_members: int,
        loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
        num_steps: int,
        rate: float,
        averaging: float = 0.0,
        end: float = 1.0,
        *,
        orthogonal: bool = False,
    ) -> tuple[nn.Module, ...]:
        """Make and train members one after the other.

        Each takes `num_steps` or an equal part of the seconds up to the fraction `end`; with `num_steps` 0 they stay
        untrained.
        """
        members = []
        for number in range(num_members):
            member = self.make().train()
            if num_steps:
                shares = self.shares(num_steps, end * number / num_members, end * (number + 1) / num_members)
                self.one_cycle((member,), partial(loss, member), shares, rate, averaging, orthogonal=orthogonal)
            members.append(member)
        return tuple(members)

    def ended(self, members: tuple[nn.Module, ...]) -> Trained:
        return Trained(tuple(member.eval() for member in members), self.num_steps, self.processor_seconds)

    def _batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of `size` without end; an epoch goes through the data in a new order, and drops what is left over.

        With `vary` the inputs of each batch are varied anew.
        """
        while True:
            order = torch.randperm(len(self.inputs), generator=self.generator)
            for chosen in order[: len(order) // size * size].split(size):
                inputs = self.inputs[chosen]
                yield inputs if self.vary is None else self.vary(inputs, self.generator), self.labels[chosen]


@contextmanager
def opened(
    make: Make,
    inputs: Tensor,
    labels: Tensor,
    *,
    seed: int,
    seconds: float | None,
    batch_size: int,
    vary: Vary | None = None,
) -> Iterator[Training]:
    """Open a training whose random draws all come from the seed and leave the global generators alone.

    On one thread: the same sums in the same order on any number of cores, and a processor second is a core's second.
    """
    check_examples(inputs, labels, ThreatModel("linf", 0))
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"seconds is {seconds}: give a finite number above 0, or None to take the recipe's num_steps")
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield Training(make, inputs, labels, seed, seconds, batch_size, vary)
        finally:
            torch.set_num_threads(threads)


def one_cycle(fraction: float, rate: float) -> Mapping[str, float]:
    """Return Adam's learning rate and momentum at a spent fraction (Smith 2018; as torch's OneCycleLR).

    The rate rises from rate / 25 and falls to rate / 250,000 along cosines, the momentum the other way, .95 to .85 and
    back.
    """
    rising = fraction < _RISE
    phase = fraction / _RISE if rising else (1 - fraction) / (1 - _RISE)
    height = (1 - math.cos(math.pi * phase)) / 2
    lowest = 1 / 25 if rising else 1 / 250_000
    return {"rate": rate * (lowest + (1 - lowest) * height), "momentum": 0.95 - 0.1 * height}


_RISE = 0.3


def cross_entropy(member: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(member(inputs), labels)


@contextmanager
def evaluating(member: nn.Module) -> Iterator[nn.Module]:
    """Put the member into evaluation mode for a while."""
    member.eval()
    try:
        yield member
    finally:
        member.train()


def check_positive(**settings: float) -> None:
    for name, value in settings.items():
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}: give a finite number above 0")


def check_fraction(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} is {value}: give a share of at least 0 and below 1")


def check_base(base_steps: int, base_share: float) -> None:
    if base_steps < 0 or not 0 < base_share < 1:
        raise UsageError(
            f"base_steps is {base_steps} and base_share {base_share}: give steps of at least 0 and a share between 0 "
            "and 1; for networks that are trained already, base_steps 0"
        )


def check_members(num_members: int, least: int = 1) -> None:
    if num_members < least:
        raise UsageError(f"num_members is {num_members}: give at least {least}")
