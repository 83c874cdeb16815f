"""Radius controls: which candidate steps are accepted, and how long the next step may be."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fipray.border import checked
from fipray.errors import UsageError
from fipray.paths.problem import Problem, anchors_and_held_out
from fipray.paths.radius import Acceptance, Candidate, RadiusControl
from fipray.registry import spec

__all__ = ["Acceptance", "Adaptive", "Candidate", "Guarded", "RadiusControl", "Scheduled", "Switched"]

LARGEST_RADIUS = 1e6  # in units of |w0|: nothing else ends the growth where steps are shorter than the radius


@spec("adaptive_radius")
@checked
@dataclass(frozen=True)
class Adaptive:
    """Trust-region control: accept steps within a functional distance that gain what was predicted.

    A candidate is judged on two numbers: its functional distance to the start, the larger of those on the batch that
    made it and on a fresh one, and the ratio of its gain on the fresh batch to the predicted gain. It is accepted when
    the distance is within `tolerance` and the ratio at least `least_gain_ratio`, or when it brings a path that is
    outside the tolerance nearer to the start. It is refused when it takes a kept quantity beyond its own budget
    (`Kept.budget`) or when a number that is judged is not finite. Where no gain beyond rounding was predicted, the
    distance alone is judged.

    A refused candidate divides the radius by `shrink`. An accepted one multiplies it by `growth` when it gains more
    than half of the prediction and stays below 0.8 of the tolerance, two standard errors of the batch included. The
    radius is at most 1e6 |w0|.

    Args:
        initial: first radius in units of |w0|, above 0.
        tolerance: largest functional distance to the start, above 0 (radians for Fisher-Rao).
        growth: factor of the radius after a good step, at least 1.
        shrink: divisor of the radius after a refused step, above 1.
        least_gain_ratio: smallest accepted ratio of gain to predicted gain, below 1; below 0 accepts steps that lose.

    Raises:
        UsageError: for a number out of range.
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
                "least_gain_ratio is a fraction of the predicted gain, below 1 (below 0 accepts steps that lose); "
                f"{self.least_gain_ratio} was given"
            )

    def begin(self, problem: Problem) -> float:
        return self.initial * problem.length

    def judge(self, candidate: Candidate) -> Acceptance:
        radius = candidate.made.radius
        smaller = radius / self.shrink
        larger = min(radius * self.growth, LARGEST_RADIUS * candidate.made.problem.length)
        if not (math.isfinite(candidate.predicted_gain) and math.isfinite(candidate.distance_after)):
            return Acceptance(False, smaller)
        # Before the tolerance: a step that nears the start as a whole may still break one quantity's own budget.
        if candidate.leaves_budget:
            return Acceptance(False, smaller)
        # No gain is asked for out here: a correction may cost the objective some of what it had gained.
        if candidate.distance_after > self.tolerance:
            nearer = candidate.distance_after < candidate.distance_before
            return Acceptance(nearer, larger if nearer else smaller)
        # Where nothing was predicted (a step that mostly corrects, a stepper without a prediction) the distance alone
        # is judged and the radius may grow: one that stayed small would leave room for nothing but corrections.
        predicted = candidate.predicted_gain > 0 and not candidate.predicted_gain <= candidate.rounding < math.inf
        ratio = candidate.gain / candidate.predicted_gain if predicted else 1.0
        if not self.least_gain_ratio <= ratio < math.inf:  # a ratio of NaN is refused, too
            return Acceptance(False, smaller)
        # The upper estimate, because growth after a batch that was favourable by chance only leads to a refusal.
        grows = ratio > 0.5 and candidate.distance_at_most < 0.8 * self.tolerance
        return Acceptance(True, larger if grows else radius)


@spec("scheduled_radius")
@checked
@dataclass(frozen=True)
class Scheduled:
    """Cosine schedule of the radius, with linear warmup and restarts; accepts every candidate without measuring it.

    A path whose outputs cease to be finite ends where it is next measured (`SaveAt`).

    Args:
        initial: largest radius in units of |w0|, above 0.
        final: radius at the end of a cycle in units of |w0|, from 0 to `initial`.
        warmup: fraction of each cycle, 0..1, 1 excluded, along which the radius first rises from 0 to `initial`. The
            first steps of Adam are as long as the radius whatever the gradient; a large radius would throw the network
            off.
        cycles: the schedule runs once for each of these factors of the radius, all cycles equally long (warm restarts:
            Loshchilov & Hutter 2017), for example once for each sparsity of a gradually pruned path.

    Raises:
        UsageError: for a number out of range.
    """

    accepts_all: ClassVar[Literal[True]] = True

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
            raise UsageError(f"warmup is a fraction of the path, 0..1, 1 excluded; {self.warmup} was given")
        if not (self.cycles and all(0 < factor < math.inf for factor in self.cycles)):
            raise UsageError(f"cycles are one or more finite factors above 0; {self.cycles} was given")

    def begin(self, problem: Problem) -> float:
        return self._at(0.0) * problem.length

    def judge(self, candidate: Candidate) -> Acceptance:
        # Called after step k, so that this is the radius of step k + 1; the first step has that of `begin`.
        made = candidate.made
        return Acceptance(True, self._at(made.progress) * made.problem.length)

    def _at(self, progress: float) -> float:
        """Radius in units of |w0| at `progress` 0..1 of the path; never 0 during warmup."""
        # The margin keeps step k of n, whose progress is a rounded k / n, in the cycle that it belongs to.
        scaled = progress * len(self.cycles) + 1e-9
        number = min(int(scaled), len(self.cycles) - 1)
        return self.cycles[number] * self._within(scaled - 1e-9 - number)

    def _within(self, progress: float) -> float:
        """Radius at `progress` 0..1 of a cycle of factor 1."""
        if progress < self.warmup:
            return self.initial * max(progress / self.warmup, 0.01)
        phase = math.pi * (progress - self.warmup) / (1 - self.warmup)
        return self.final + (self.initial - self.final) * (1 + math.cos(phase)) / 2


@spec("guarded_radius")
@checked
@dataclass(frozen=True)
class Guarded:
    """Scheduled radius that becomes shorter while the path is too far on held-out inputs, and longer again after.

    Every `every` steps the functional distance to the start is measured on held-out inputs. Above `tolerance` all
    further steps are half as long as the schedule's, then a quarter, and so on down to `least`; below 0.8 of the
    tolerance they double again, up to the schedule. A step to outputs that are not finite is refused. Steps use no
    held-out input for anything else. The radius of a saved point shows what was done.

    Cost: a forward pass on `num_inputs` inputs every `every` steps.

    Args:
        control: the schedule.
        tolerance: functional distance, above 0.
        every: number of steps between two measurements, at least 1.
        least: smallest fraction of the schedule's radius, above 0 and at most 1.
        num_inputs: number of held-out inputs, from the first one, at least 1.

    Raises:
        UsageError: for a number out of range.
    """

    control: Scheduled
    tolerance: float
    every: int = 20
    least: float = 0.125
    num_inputs: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < math.inf:
            raise UsageError(f"tolerance is a functional distance above 0; {self.tolerance} was given")
        if not 0 < self.least <= 1:
            raise UsageError(f"least is a fraction of the radius, above 0 and at most 1; {self.least} was given")
        if not (self.every >= 1 and self.num_inputs >= 1):
            raise UsageError(f"every and num_inputs are at least 1; {self.every} and {self.num_inputs} were given")

    def begin(self, problem: Problem) -> float:
        return self.control.begin(problem)

    def judge(self, candidate: Candidate) -> Acceptance:
        made, scale, accepted = candidate.made, self.scale_of(candidate), True
        if round(made.progress / made.fraction) % self.every == 0:
            _, held_out = anchors_and_held_out(made.problem)
            squares = made.problem.squares(candidate.after, held_out.first(self.num_inputs)).values()
            distance = sum(float(each.mean()) for each in squares) ** 0.5
            accepted = math.isfinite(distance)
            if not distance <= self.tolerance:  # also where it is NaN
                scale = max(scale / 2, self.least)
            elif distance < 0.8 * self.tolerance:
                scale = min(2 * scale, 1.0)
        return Acceptance(accepted, scale * self.control.judge(candidate).radius)

    def scale_of(self, candidate: Candidate) -> float:
        """Fraction of the schedule's radius with which a candidate was made.

        Args:
            candidate: proposed step.

        Returns:
            1, or a power of 1/2 that is at least `least`.
        """
        made = candidate.made
        # A path is resumed from its radius alone, so what was done to it is read off it.
        earlier = replace(candidate, made=replace(made, progress=made.progress - made.fraction))
        planned = self.control.judge(earlier).radius
        if not planned > 0:
            return 1.0
        return min(max(2.0 ** round(math.log2(max(made.radius / planned, 1e-9))), self.least), 1.0)


@spec("switched_radius")
@checked
@dataclass(frozen=True)
class Switched:
    """One radius control up to a fraction of the path and another after it, for use with the stepper `Switch`.

    For each of the two, progress goes from 0 to 1, as it does for the two steppers.

    Args:
        far: control of the first part.
        near: control of the rest; it begins with its own first radius.
        at: fraction of the path at which they change, above 0 and below 1.

    Raises:
        UsageError: for a number out of range.
    """

    far: RadiusControl
    near: RadiusControl
    at: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise UsageError(f"at is a fraction of the path, above 0 and below 1; {self.at} was given")

    def begin(self, problem: Problem) -> float:
        return self.far.begin(problem)

    def judge(self, candidate: Candidate) -> Acceptance:
        made = candidate.made
        part = replace(candidate, made=made.part_of(self.at))
        is_near = made.progress > self.at
        acceptance = (self.near if is_near else self.far).judge(part)
        # The loop asks the candidate itself which computed quantities were not finite.
        vars(candidate).update({name: known for name, known in vars(part).items() if name != "made"})
        if is_near:
            return acceptance
        # The last step of the first part sets the radius with which the second begins.
        # With a margin for rounding: a mark may lie exactly at the end of a step.
        is_last = made.progress + made.fraction > self.at + 1e-9
        return Acceptance(acceptance.accepted, self.near.begin(made.problem)) if is_last else acceptance
