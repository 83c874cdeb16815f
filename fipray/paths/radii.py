"""Judges a candidate, and says how far the next step may reach."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import checked, number
from fipray.errors import UsageError
from fipray.paths.batch import Batch
from fipray.paths.objective import value
from fipray.paths.problem import Problem
from fipray.paths.stepper import Situation
from fipray.registry import spec

LARGEST_RADIUS = 1e6  # of |w0|: where steps are shorter than the radius, nothing else ends its growth


@dataclass(frozen=True)
class Candidate:
    """A step that is proposed and not yet accepted. What costs a forward pass is computed when first asked for.

    `made` is what it was made from, with its own batch and radius; `batch` is a fresh one: staying on the inputs that
    made the step is no evidence.
    """

    made: Situation
    after: Tensor
    predicted_gain: float
    batch: Batch

    @cached_property
    def distance_before(self) -> float:
        """Functional distance to the start before the step, on the fresh batch."""
        return self._distance(self.made.weights, self.batch)[0]

    @cached_property
    def distance_after(self) -> float:
        """Functional distance to the start after it: the greater one of those on the step's own and the fresh batch."""
        return _greatest(self._fresh[0], self._distance_on_own)

    @cached_property
    def distance_at_most(self) -> float:
        """The same plus two standard errors of the fresh batch's mean: what a lucky batch does not get below."""
        return _greatest(self._fresh[1], self._distance_on_own)

    @cached_property
    def leaves_budget(self) -> bool:
        """Whether a kept quantity is beyond its budget after the step, and no nearer to it than before."""
        problem = self.made.problem
        budgets = {name: kept.budget for name, kept in problem.keeps.items() if kept.budget < math.inf}
        if not budgets:
            return False
        before, after = (problem.distances(weights, self.batch) for weights in (self.made.weights, self.after))
        return any(after[name] > budget and not after[name] < before[name] for name, budget in budgets.items())

    @cached_property
    def gain(self) -> float:
        """The decrease of the objective, on the fresh inputs, with the randomness of the step's own batch."""
        return self._before - self._objective(self.after)

    @property
    def not_finite(self) -> str:
        """What of all that was asked for so far is NaN or infinite, in words; empty where nothing is."""
        named = {
            "distance_before": "the functional distance before the step",
            "distance_after": "the functional distance after the step",
            "distance_at_most": "the functional distance after the step, with its error,",
            "gain": "the gain",
        }
        there = {name: vars(self)[key] for key, name in named.items() if key in vars(self)}
        return " and ".join(f"{name} was {value}" for name, value in there.items() if not math.isfinite(value))

    @property
    def rounding(self) -> float:
        """A gain that is no more than this may be rounding."""
        return 4 * torch.finfo(self.after.dtype).eps * abs(self._before)

    @cached_property
    def _before(self) -> float:
        return self._objective(self.made.weights)

    def _objective(self, weights: Tensor) -> float:
        made, batch = self.made, replace(self.batch, seed=self.made.batch.seed)
        return float(value(made.objective, made.problem, weights, batch).detach())

    @cached_property
    def _fresh(self) -> tuple[float, float]:
        return self._distance(self.after, self.batch)

    @cached_property
    def _distance_on_own(self) -> float:
        return self._distance(self.after, self.made.batch)[0]

    def _distance(self, weights: Tensor, batch: Batch) -> tuple[float, float]:
        """Of all kept quantities, and the same plus two standard errors of their means."""
        squares = self.made.problem.squares(weights, batch).values()
        mean = sum(float(each.mean()) for each in squares)
        errors = [float(each.std()) / len(each) ** 0.5 if len(each) > 1 else 0.0 for each in squares]
        return mean**0.5, (mean + 2 * math.hypot(*errors)) ** 0.5


def _greatest(one: float, other: float) -> float:
    """NaN where either is: `max` would depend on their order."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate is accepted, and the radius [same unit as weights] of the next step."""

    accepted: bool
    radius: float


@runtime_checkable
class RadiusControl(Protocol):
    """Radii are L2 lengths in weight space; `initial` settings are in units of the start's norm |w0|."""

    def begin(self, problem: Problem) -> float:
        """The first radius."""
        ...

    def judge(self, candidate: Candidate) -> Verdict:
        """What becomes of a candidate: `candidate.made` says with which radius, and after which share of the path."""
        ...


def first_radius(radius: RadiusControl, problem: Problem) -> float:
    """Where a radius control begins. Raises UsageError where that is no number."""
    return number(radius.begin(problem), f"{type(radius).__name__}.begin()")


@spec("adaptive_radius")
@checked
@dataclass(frozen=True)
class Adaptive:
    """Keeps the path within `tolerance`, the functional distance to the start that a candidate may reach, and the steps
    honest.

    A candidate is judged on two numbers: its functional distance, on the batch that made it and on a fresh one, and its
    gain against the predicted gain, on the fresh one. It is accepted when it is within the tolerance and gains at least
    `least_gain_ratio` of what was predicted, or when it brings a path that is outside nearer to the start. A refused
    candidate divides the radius by `shrink`; one that uses less than 0.8 of the tolerance, two standard errors of the
    batch included, and gains more than half of what was predicted multiplies it by `growth`.
    A step that takes a kept quantity beyond its own budget (`Kept.budget`) is refused.
    Where no gain beyond rounding was predicted, the distance alone judges. A candidate of which anything that is judged
    is not finite is refused. The radius grows to a million |w0| at most.
    """

    initial: float = 0.01
    tolerance: float = 0.1
    growth: float = 1.5
    shrink: float = 2.0
    least_gain_ratio: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.initial < math.inf:
            raise UsageError(f"the first radius is above 0 and finite; initial={self.initial} was given")
        if not self.tolerance > 0:
            raise UsageError(f"tolerance is a functional distance above 0; {self.tolerance} was given")
        if not (1 <= self.growth < math.inf and 1 < self.shrink < math.inf):
            raise UsageError(
                f"growth is at least 1 and shrink above 1, both finite; {self.growth} and {self.shrink} were given"
            )
        if not self.least_gain_ratio < 1:
            raise UsageError(
                "least_gain_ratio is a share of the predicted gain, below 1 (and below 0 for candidates that lose); "
                f"{self.least_gain_ratio} was given"
            )

    def begin(self, problem: Problem) -> float:
        return self.initial * problem.length

    def judge(self, candidate: Candidate) -> Verdict:
        radius = candidate.made.radius
        smaller = radius / self.shrink
        larger = min(radius * self.growth, LARGEST_RADIUS * candidate.made.problem.length)
        if not (math.isfinite(candidate.predicted_gain) and math.isfinite(candidate.distance_after)):
            return Verdict(False, smaller)
        if candidate.leaves_budget:
            return Verdict(False, smaller)
        if candidate.distance_after > self.tolerance:
            nearer = candidate.distance_after < candidate.distance_before
            return Verdict(nearer, larger if nearer else smaller)
        # Where nothing was promised (a step that mostly corrects, a stepper that does not predict) the distance alone
        # judges: a radius that did not grow then would leave room for the correction only, from there on.
        promised = candidate.predicted_gain > 0 and not candidate.predicted_gain <= candidate.rounding < math.inf
        ratio = candidate.gain / candidate.predicted_gain if promised else 1.0
        if not self.least_gain_ratio <= ratio < math.inf:
            return Verdict(False, smaller)
        grows = ratio > 0.5 and candidate.distance_at_most < 0.8 * self.tolerance
        return Verdict(True, larger if grows else radius)


@spec("scheduled_radius")
@checked
@dataclass(frozen=True)
class Scheduled:
    """Accepts every candidate, and measures none: a path whose outputs are no longer finite ends where it is next
    measured (`SaveAt`). The radius falls from `initial` to `final`, in units of |w0|, along half a cosine.

    warmup: a share of the path, or of each cycle, 0..1, along which it first rises from 0 to `initial`. Adam's first
        steps are as long as the radius whatever the gradient; where the radius is large they would throw the network
        off.
    cycles: that happens once for each of these factors of the radii, in equal shares of the path (Loshchilov & Hutter
        2017): for each of the sparsities that a path passes through, say.
    """

    initial: float = 0.02
    final: float = 0.0
    warmup: float = 0.0
    cycles: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not (0 < self.initial < math.inf and 0 <= self.final <= self.initial):
            raise UsageError(
                f"0 <= final <= initial and 0 < initial, finite; {self.initial} and {self.final} were given"
            )
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup is a share of the path, 0..1, 1 excluded; {self.warmup} was given")
        if not (self.cycles and all(0 < factor < math.inf for factor in self.cycles)):
            raise UsageError(f"cycles are one or more finite factors above 0; {self.cycles} was given")

    def begin(self, problem: Problem) -> float:
        return self._at(0.0) * problem.length

    def judge(self, candidate: Candidate) -> Verdict:
        made = candidate.made
        return Verdict(True, self._at(made.progress) * made.problem.length)

    def _at(self, progress: float) -> float:
        """The radius after a share `progress` of the path, in units of |w0|; never 0 on the way up."""
        scaled = progress * len(self.cycles) + 1e-9
        number = min(int(scaled), len(self.cycles) - 1)
        return self.cycles[number] * self._within(scaled - 1e-9 - number)

    def _within(self, progress: float) -> float:
        """The same within a cycle."""
        if progress < self.warmup:
            return self.initial * max(progress / self.warmup, 0.01)
        phase = math.pi * (progress - self.warmup) / (1 - self.warmup)
        return self.final + (self.initial - self.final) * (1 + math.cos(phase)) / 2


@spec("switched_radius")
@checked
@dataclass(frozen=True)
class Switched:
    """Beside `Switch`: `far` until a share `at`, 0..1, of the path is walked, then `near` from its own first radius.

    For each of the two progress goes from 0 to 1, as for the two steppers.
    """

    far: RadiusControl
    near: RadiusControl
    at: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise UsageError(f"a path switches after a share of it, above 0 and below 1; at={self.at} was given")

    def begin(self, problem: Problem) -> float:
        return self.far.begin(problem)

    def judge(self, candidate: Candidate) -> Verdict:
        made = candidate.made
        part = replace(candidate, made=made.part_of(self.at))
        if made.progress > self.at:
            return self.near.judge(part)
        verdict = self.far.judge(part)
        # the last step of the far part leaves the radius that the near part begins with
        is_last = made.progress + made.fraction > self.at
        return Verdict(verdict.accepted, self.near.begin(made.problem)) if is_last else verdict
