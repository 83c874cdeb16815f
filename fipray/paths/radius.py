"""Judges a candidate, and says how far the next step may reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.geometry import functional_distance
from fipray.paths.objective import Objective
from fipray.paths.problem import Batch, Problem


@dataclass(frozen=True)
class Candidate:
    """A step that is proposed and not yet accepted. What costs a forward pass is computed when first asked for.

    `batch` is a fresh one: staying on the inputs that made the step is no evidence.
    """

    problem: Problem
    objective: Objective
    before: Tensor
    after: Tensor
    predicted_gain: float
    batch: Batch

    @cached_property
    def distance_before(self) -> float:
        """Functional distance to the start before the step, on the fresh batch."""
        return self._distance(self.before)

    @cached_property
    def distance_after(self) -> float:
        """Functional distance to the start after it."""
        return self._distance(self.after)

    @cached_property
    def gain(self) -> float:
        """The decrease of the objective, on the fresh batch."""
        before = self.objective.value(self.problem, self.before, self.batch)
        after = self.objective.value(self.problem, self.after, self.batch)
        return float(before.detach() - after.detach())

    @torch.no_grad()
    def _distance(self, weights: Tensor) -> float:
        embedded = self.problem.geometry.embed(self.problem.network(weights, self.batch.inputs))
        return float(functional_distance(embedded, self.batch.reference))


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate is accepted, and the radius [same unit as weights] of the next step."""

    accepted: bool
    radius: float


class RadiusControl(Protocol):
    """Radii are L2 lengths in weight space; `initial` settings are in units of the start's norm |w0|."""

    def begin(self, problem: Problem) -> float:
        """The first radius."""
        ...

    def judge(self, candidate: Candidate, radius: float, progress: float) -> Verdict:
        """What becomes of a candidate made with `radius`, after a share `progress` of the path."""
        ...


@dataclass(frozen=True)
class AdaptiveRadius:
    """Keeps the path within `tolerance`, the functional distance to the start that a candidate may reach, and the steps
    honest.

    A candidate is judged on two numbers, on a fresh batch: its functional distance, and its gain against the predicted
    gain. It is accepted when it is within the tolerance and gains at least `least_gain_ratio` of what was predicted, or
    when it brings a path that is outside nearer to the start. A refused candidate divides the radius by `shrink`; one
    that uses less than 0.8 of the tolerance and gains more than half of what was predicted multiplies it by `growth`.
    Where no gain was predicted, the distance alone judges.
    """

    initial: float = 0.01
    tolerance: float = 0.1
    growth: float = 1.5
    shrink: float = 2.0
    least_gain_ratio: float = 0.1

    def __post_init__(self) -> None:
        if not self.initial > 0:
            raise UsageError(f"the first radius is above 0; initial={self.initial} was given")
        if not self.tolerance > 0:
            raise UsageError(f"tolerance is a functional distance above 0; {self.tolerance} was given")
        if not (self.growth >= 1 and self.shrink > 1):
            raise UsageError(f"growth is at least 1 and shrink above 1; {self.growth} and {self.shrink} were given")

    def begin(self, problem: Problem) -> float:
        return self.initial * float(torch.linalg.vector_norm(problem.start))

    def judge(self, candidate: Candidate, radius: float, progress: float) -> Verdict:
        if candidate.distance_after > self.tolerance:
            nearer = candidate.distance_after < candidate.distance_before
            return Verdict(nearer, radius * self.growth if nearer else radius / self.shrink)
        # Where nothing was promised (a step that mostly corrects, a stepper that does not predict) the distance alone
        # judges: a radius that did not grow then would leave room for the correction only, from there on.
        promised = candidate.predicted_gain > 0
        ratio = candidate.gain / candidate.predicted_gain if promised else 1.0
        if not ratio >= self.least_gain_ratio:
            return Verdict(False, radius / self.shrink)
        grows = ratio > 0.5 and candidate.distance_after < 0.8 * self.tolerance
        return Verdict(True, radius * self.growth if grows else radius)


@dataclass(frozen=True)
class ScheduledRadius:
    """Accepts every candidate. The radius falls from `initial` to `final`, in units of |w0|, along half a cosine."""

    initial: float = 0.02
    final: float = 0.0

    def __post_init__(self) -> None:
        if not (self.initial > 0 and 0 <= self.final <= self.initial):
            raise UsageError(f"0 <= final <= initial and initial > 0; {self.initial} and {self.final} were given")

    def begin(self, problem: Problem) -> float:
        return self.initial * float(torch.linalg.vector_norm(problem.start))

    def judge(self, candidate: Candidate, radius: float, progress: float) -> Verdict:
        first = self.begin(candidate.problem)
        last = self.final / self.initial * first
        return Verdict(True, last + (first - last) * (1 + math.cos(math.pi * progress)) / 2)
