"""Trial of an ensemble's recipe: radius, number of members and of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from fipray.errors import NetworkError
from fipray.networks import check_norms_move
from fipray.paths import Objective, Settings, walk
from fipray.paths.problem import anchors_and_held_out
from fipray.recipes.budget import Budget
from fipray.recipes.ensembles.choices import Walk
from fipray.recipes.machine import Machine
from fipray.recipes.trial import Attempt, Bench, best_radius

W = TypeVar("W", bound=Walk)
FIRST_RATE = 2e-3  # learning rate of a path's steps at which the search for a radius begins
TRIAL = 0.15  # fraction of a budget in seconds
NUM_ATTEMPTS = 4  # about as many short paths make up a trial
FEWEST, MOST = 10, 100  # steps of a short path
STEPS_A_MEMBER = 1000  # with fewer steps for each member, there are fewer members
MEMBERS = (2, 5)
MOST_PASSES = 60  # passes through the anchors for each member: more have not been seen to help


@dataclass(eq=False)
class Trial:
    """Trial of an ensemble's recipe. Each decision is a method; its reason is added to `reasons`.

    Args:
        bench: network and data on which short paths run.
        budget: budget of the recipe.
        given: settings that are not to be chosen.
        short: makes objective and settings of a short path.
    """

    bench: Bench
    budget: Budget
    given: Mapping[str, Any]
    short: Callable[[Any], tuple[Objective, Settings]]

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.reasons: list[str] = []

    @property
    def machine(self) -> Machine:
        return self.bench.machine

    def choices(self, usual: W) -> tuple[W, tuple[str, ...]]:
        """Choose all settings.

        Args:
            usual: settings where nothing is chosen.

        Returns:
            Settings and reasons.
        """
        size = max(min(usual.batch_size, len(self.bench.subject.data.anchors)), 1)
        choices = replace(usual, batch_size=size, batch_statistics=self._has_norms())
        choices = replace(choices, **self.given)
        choices, seconds = self._radius(choices)
        return self._lengths(choices, seconds), tuple(self.reasons)

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

    def _radius(self, choices: W) -> tuple[W, float]:
        """Choose the radius, and measure the seconds of a step with it."""
        problem = self.bench.problem
        first = FIRST_RATE * math.sqrt(problem.network.num_moving) / problem.length
        first = float(f"{choices.radius if 'radius' in self.given else first:.2g}")
        self._attempt(choices, first, 1)  # warms up
        pace = self._attempt(choices, first, 2).seconds
        num_steps = self._num_steps(pace)
        if "radius" in self.given:
            return choices, self._attempt(choices, first, num_steps).seconds
        radius, attempts = best_radius(
            lambda tried: self._attempt(choices, tried, num_steps), first, factor=3.0, at_most=NUM_ATTEMPTS
        )
        tried = ", ".join(f"{each:g} ({attempts[each].distance:.3f})" for each in sorted(attempts))
        self.reasons.append(
            f"Radius {radius:g} of |w0|: short paths of {num_steps} steps made objective and functional distance on "
            f"{self.bench.num_held_out} held-out inputs smallest with it; radii and sums were {tried}."
        )
        return replace(choices, radius=radius), attempts[radius].seconds

    def _lengths(self, choices: W, seconds: float) -> W:
        spent = time.perf_counter() - self.began
        anchors, workers = len(self.bench.subject.data.anchors), self.machine.workers
        most = max(math.ceil(MOST_PASSES * anchors / choices.batch_size), 10)
        members, num_steps = choices.members, self.budget.steps or 0
        if self.budget.seconds is not None:
            total = int(workers * max(self.budget.seconds - spent, 0.0) / (1.05 * seconds))
            if "members" not in self.given:
                members = min(max(total // min(STEPS_A_MEMBER, most), MEMBERS[0]), MEMBERS[1])
            # Where the members cannot be dealt out evenly, some workers wait while others trace one more.
            in_turn = math.ceil(members / workers)
            num_steps = min(max(total // (workers * in_turn), 10), most)
        choices = replace(choices, **{"members": members, "num_steps": num_steps, **self.given})
        self.reasons.append(
            f"{choices.members} members of {choices.num_steps:,} steps each, {workers} at a time: a step takes "
            f"{1000 * seconds:.3g} ms here, and the budget is {self.budget.text}, of which the trial took "
            f"{spent:.0f} s."
        )
        return choices

    def _num_steps(self, pace: float) -> int:
        """Count the steps of a short path."""
        if self.budget.seconds is None:
            return min(max((self.budget.steps or 0) // 20, FEWEST), MOST)
        return min(max(int(TRIAL * self.budget.seconds / (NUM_ATTEMPTS * pace)), FEWEST), MOST)

    def _attempt(self, choices: W, radius: float, num_steps: int) -> Attempt:
        """Trace a short path; the distance of the attempt is the sum that first-order steps make smaller."""
        objective, settings = self.short(replace(choices, radius=radius, num_steps=num_steps))
        problem = self.bench.problem
        anchors, held_out = anchors_and_held_out(problem)
        began, weights = time.perf_counter(), problem.start
        for point in walk(problem, anchors, objective, settings):
            weights = point.weights
        seconds = (time.perf_counter() - began) / num_steps
        distance = math.hypot(*problem.distances(weights, held_out).values())
        reached = distance**2 + choices.beta * float(objective.value(problem, weights, held_out).detach())
        return Attempt(reached if math.isfinite(reached) else math.inf, 0.0, seconds)
