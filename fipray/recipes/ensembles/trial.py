"""Trial of an ensemble's recipe: radius, number of members and of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor, nn

from fipray.errors import NetworkError
from fipray.networks import check_norms_move
from fipray.paths import Objective, Settings, walk
from fipray.paths.problem import anchors_and_held_out
from fipray.paths.steppers.orthogonal import RMS
from fipray.recipes.ensembles.choices import Walk
from fipray.recipes.ensembles.task import Task
from fipray.recipes.machine import Machine
from fipray.recipes.trial import Attempt, best_radius, between, say_short_path
from fipray.recipes.variations import chosen_variations
from fipray.study.referenced import ReferencedArray

W = TypeVar("W", bound=Walk)
FIRST_RATE = 2e-3  # learning rate of a path's steps at which the search for a radius begins
TRIAL = 0.1  # fraction of a budget in seconds
NUM_ATTEMPTS = 4  # about as many short paths make up a trial
FEWEST, MOST = 10, 100  # steps of a short path
STEPS_A_MEMBER = 4000  # with fewer steps for each member, there are fewer members: one network for all the time leads
MOST_MEMBERS = 5
MOST_PASSES = 60  # passes through many anchors for each member: more have not been seen to help
BATCH_SIZES = (128, 64, 32)
WANTED_STEPS = 300  # with fewer steps for each member, batches become smaller
FACTOR = 3.0  # ratio of the radii that are tried
LOOKS = 8  # points at which a path is measured: its start, its end, and six on the way back to the base network
MOST_REMEMBERED = 2 * 10**9  # bytes of the perturbations of all anchors
MOST_FOR_ORTHOGONAL = 5.0  # ratio of the seconds of a step to one of Adam, above which Adam is taken
LONGER = 1 / 6  # power by which the radius falls with the number of steps
LATE = 1.15  # ratio of the seconds after which a path ends to those that are planned
FEWEST_EXAMPLES = 100  # test inputs that are attacked at the least


@dataclass(eq=False)
class Trial:
    """Trial of an ensemble's recipe. Each decision is a method; its reason is added to `reasons`.

    Args:
        task: ensemble that is asked for.
        machine: threads and device of the workers.
        short: makes objective and settings of a short path.
        fewest: smallest number of members that is chosen.
    """

    task: Task
    machine: Machine
    short: Callable[[Any], tuple[Objective, Settings]]
    fewest: int = 1

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.reasons: list[str] = []
        self._searched = 0  # steps of the short paths that found the radius
        self.bench = self.task.bench(self.machine)

    @property
    def given(self) -> Mapping[str, Any]:
        """Settings that are not to be chosen."""
        return self.task.overrides

    def choices(self, usual: W) -> tuple[W, tuple[str, ...]]:
        """Choose all settings.

        Args:
            usual: settings where nothing is chosen.

        Returns:
            Settings and reasons.
        """
        choices = replace(usual, batch_statistics=self._has_norms(), **self._sizes(usual.batch_size))
        choices = replace(choices, **self._variations(choices), **self.given)
        choices = self._orthogonal(self._remembers(choices))
        choices, pace = self._batch_size(choices)
        choices, pace = self._radius(choices, pace)
        choices = self._shortened(self._lengths(choices, pace))
        return self._examples(choices), tuple(self.reasons)

    def _has_norms(self) -> bool:
        modules = self.bench.subject.module.modules()
        if not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in modules):
            return False
        try:
            check_norms_move(self.bench.problem.network)
        except NetworkError:
            self.reasons.append("BatchNorm keeps its statistics, because its scales and shifts are fixed.")
            return False
        self.reasons.append("BatchNorm uses the statistics of each batch while the paths walk.")
        return True

    def _sizes(self, size: int) -> dict[str, int]:
        return {"batch_size": max(min(size, len(self.task.data.anchors)), 1)}

    def _variations(self, choices: Walk) -> dict[str, Any]:
        if not hasattr(choices, "pixels") or {"pixels", "mirrored"} <= self.given.keys():
            return {}
        pixels, mirrored, reason = chosen_variations(self.bench.problem, self.task.data.bounds, self.task.seed)
        # With one of the two given, the sentence would tell of a choice that was not made.
        self.reasons += [reason] if reason and not {"pixels", "mirrored"} & self.given.keys() else []
        chosen = {"pixels": pixels, "mirrored": mirrored}
        return {name: value for name, value in chosen.items() if name not in self.given}

    def _remembers(self, choices: W) -> W:
        """Leave perturbations out of memory where anchors are read by reference, or their perturbations are large."""
        if not getattr(choices, "remembers", False) or "remembers" in self.given:
            return choices
        anchors = self.task.data.anchors
        referenced = isinstance(anchors, ReferencedArray)
        if not referenced and anchors.size <= MOST_REMEMBERED:
            return choices
        why = "are read by reference" if referenced else f"have {anchors.size:,} numbers"
        self.reasons.append(f"Every search of the adversary begins at random: the anchors {why}.")
        return replace(choices, remembers=False)  # type: ignore[call-arg]

    def _orthogonal(self, choices: W) -> W:
        """Decide whether matrices move along orthogonal ones, by what such a step costs."""
        if not getattr(choices, "orthogonal", False) or "orthogonal" in self.given:
            return choices
        if not self.bench.problem.network.matrices:
            return replace(choices, orthogonal=False)  # type: ignore[call-arg]
        plain = replace(choices, orthogonal=False)  # type: ignore[call-arg]
        self._walked(plain, self._first_radius(choices), 1)  # warms up
        before, after = (self._walked(each, self._first_radius(choices), 2)[1] for each in (plain, choices))
        ratio = after / before
        if ratio > MOST_FOR_ORTHOGONAL:
            self.reasons.append(
                f"Adam for all weights: along orthogonal matrices a step takes {ratio:.1f} times as long."
            )
            return plain
        self.reasons.append(
            f"Matrices move along orthogonal ones, at {ratio:.1f} times the seconds of a step by Adam for all weights."
        )
        return choices

    def _batch_size(self, choices: W) -> tuple[W, float]:
        """Choose the batch size, and measure the seconds of a step with it."""
        seconds = self.task.budget.seconds
        sizes = [choices.batch_size, *(size for size in BATCH_SIZES if size < choices.batch_size)]
        pace = 0.0
        for size in sizes if seconds is not None and "batch_size" not in self.given else sizes[:1]:
            choices, before = replace(choices, batch_size=size), time.perf_counter()
            pace = self._attempt(choices, self._first_radius(choices), 1).seconds  # warms up
            if time.perf_counter() - before < 0.02 * (seconds or math.inf):
                pace = self._attempt(choices, self._first_radius(choices), 2).seconds
            if seconds is None or seconds * self.machine.workers / pace >= WANTED_STEPS:
                break
        if len(sizes) > 1 and choices.batch_size < sizes[0]:
            self.reasons.append(f"Batches of {choices.batch_size} anchors, as steps are slow for the budget.")
        return choices, pace

    def _first_radius(self, choices: W) -> float:
        problem = self.bench.problem
        rate = FIRST_RATE / RMS if getattr(choices, "orthogonal", False) else FIRST_RATE
        first = rate * math.sqrt(problem.network.num_moving) / problem.length
        return float(f"{choices.radius if 'radius' in self.given else first:.2g}")

    def _radius(self, choices: W, pace: float) -> tuple[W, float]:
        """Choose the radius, and measure the seconds of a step with it."""
        first, num_steps, budget = self._first_radius(choices), self._num_steps(pace), self.task.budget
        at_most = NUM_ATTEMPTS
        if budget.seconds is not None:
            # The end of a short path is judged on held-out inputs, at the cost of a few steps more.
            judged = math.ceil(2 * self.bench.num_held_out / choices.batch_size)
            left = 1.5 * TRIAL * budget.seconds - (time.perf_counter() - self.began)
            at_most = min(int(left / (pace * (num_steps + judged))), NUM_ATTEMPTS)
        if at_most < 2:
            self.reasons.append(f"Radius {first:g} of |w0|, untried: steps are too slow for the budget.")
            return replace(choices, radius=first), pace
        if "radius" in self.given:
            return choices, self._attempt(choices, first, num_steps).seconds
        self._searched = num_steps
        best, attempts = best_radius(
            lambda tried: self._attempt(choices, tried, num_steps), first, factor=FACTOR, at_most=at_most
        )
        radius = between(best, attempts, FACTOR)
        tried = ", ".join(f"{each:g} ({attempts[each].distance:.3f})" for each in sorted(attempts))
        self.reasons.append(
            f"Radius {radius:g} of |w0|: short paths of {num_steps} steps made objective and functional distance on "
            f"{self.bench.num_held_out} held-out inputs smallest near it; radii and sums were {tried}."
        )
        return replace(choices, radius=radius), attempts[best].seconds

    def _lengths(self, choices: W, pace: float) -> W:
        """Choose the numbers of members, anchors and steps, which share what is left of the budget."""
        data, workers, budget = self.task.data, self.machine.workers, self.task.budget
        spent = time.perf_counter() - self.began
        chosen: dict[str, Any] = {"num_steps": budget.steps or 0}
        if budget.seconds is not None:
            left, forward, members = max(budget.seconds - spent, 0.0), self.bench.forward_seconds, choices.members
            # Each path computes the base network's outputs on all its anchors first.
            anchors = min(len(data.anchors), max(int(0.05 * left / forward), 16 * choices.batch_size))
            most = max(math.ceil(MOST_PASSES * len(data.anchors) / choices.batch_size), STEPS_A_MEMBER)
            measured = min(anchors, 1000)
            look = forward * (measured + len(data.held_out) + 2 * self.task.num_held_out)
            look += pace * measured / choices.batch_size
            tests = 0 if data.test_inputs is None else len(data.test_inputs)
            beside = forward * (anchors + 2 * tests) + LOOKS * look
            if "members" not in self.given:
                affordable = int(workers * left / (pace * STEPS_A_MEMBER + beside))
                members = min(max(affordable, self.fewest, min(workers, 2)), MOST_MEMBERS)
            # Where the members cannot be dealt out evenly, some workers wait while others trace one more.
            for_each = left / math.ceil(members / workers) - beside
            num_steps = min(max(int(for_each / (1.05 * pace)), 10), most)
            chosen = {"members": members, "num_anchors": anchors, "num_steps": num_steps}
            if hasattr(choices, "max_seconds"):
                chosen["max_seconds"] = float(f"{max(LATE * num_steps * pace, 1.0):.3g}")
        if hasattr(choices, "averaging"):
            # A window of a tenth of the path, or the average still holds what came before the radius fell.
            window = max(1 - 10 / chosen["num_steps"], 0.0)
            chosen["averaging"] = float(f"{min(window, choices.averaging):.3g}")
        choices = replace(choices, **{**chosen, **self.given})
        counted = "1 member" if choices.members == 1 else f"{choices.members} members"
        self.reasons.append(
            f"{counted} of {choices.num_steps:,} steps each, {workers} at a time: a step takes {1000 * pace:.3g} ms "
            f"here, and the budget is {budget.text}, of which the trial took {spent:.0f} s."
        )
        return choices

    def _shortened(self, choices: W) -> W:
        """Shorten the radius of steps along orthogonal matrices: long paths want shorter ones than short paths."""
        if not getattr(choices, "orthogonal", False) or not 0 < self._searched < choices.num_steps:
            return choices
        radius = float(f"{choices.radius * (self._searched / choices.num_steps) ** LONGER:.3g}")
        self.reasons.append(
            f"Radius {radius:g} for paths of {choices.num_steps:,} steps: the best one falls with their number."
        )
        return replace(choices, radius=radius)

    def _examples(self, choices: W) -> W:
        """Choose how many test inputs are attacked: as many as take about as long as the budget."""
        seconds, tests = self.task.budget.seconds, self.task.data.test_inputs
        if "num_examples" in self.given or tests is None:
            return choices
        count = min(choices.num_examples, len(tests))
        if seconds is not None:
            # Each member alone, and three ensembles. A gradient takes as long as three forward passes.
            networks = 4 * (choices.members + 1)
            each = 3 * self.bench.forward_seconds * self.task.num_gradients * networks
            count = min(count, max(int(self.machine.workers * seconds / each), FEWEST_EXAMPLES))
        if count < min(choices.num_examples, len(tests)):
            self.reasons.append(f"Attacks on {count} test inputs: on more they would take longer than the budget.")
        return replace(choices, num_examples=count)

    def _num_steps(self, pace: float) -> int:
        """Count the steps of a short path."""
        budget = self.task.budget
        if budget.seconds is None:
            return min(max((budget.steps or 0) // 20, FEWEST), MOST)
        return min(max(int(TRIAL * budget.seconds / (NUM_ATTEMPTS * pace)), FEWEST), MOST)

    def _attempt(self, choices: W, radius: float, num_steps: int) -> Attempt:
        """Trace a short path; the distance of the attempt is the sum that first-order steps make smaller."""
        objective, _ = self.short(choices)
        weights, seconds = self._walked(choices, radius, num_steps)
        problem = self.bench.problem
        _, held_out = anchors_and_held_out(problem)
        distance = math.hypot(*problem.distances(weights, held_out).values())
        value = problem.network.fitting(lambda: objective.value(problem, weights, held_out).detach(), len(held_out))
        reached = distance**2 + choices.beta * float(value)
        return Attempt(reached if math.isfinite(reached) else math.inf, 0.0, seconds)

    def _walked(self, choices: Walk, radius: float, num_steps: int) -> tuple[Tensor, float]:
        """Trace a short path: the weights [P] at its end, and the seconds of a step."""
        objective, settings = self.short(replace(choices, radius=radius, num_steps=num_steps))
        problem = self.bench.problem
        anchors, _ = anchors_and_held_out(problem)
        began, weights = time.perf_counter(), problem.start
        say_short_path(f"radius {radius:.3g}, batches of {choices.batch_size}", num_steps)
        for point in walk(problem, anchors, objective, settings, overwrites=True):  # as paths themselves do
            weights = point.weights
        return weights, (time.perf_counter() - began) / num_steps
