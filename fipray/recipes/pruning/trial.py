"""Trial of the recipe `prune`: which settings suit a network, its data and a budget."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from fipray.errors import NetworkError
from fipray.networks import check_norms_move
from fipray.recipes.anchors import LEAST_AGREEMENT, are_images
from fipray.recipes.machine import Machine
from fipray.recipes.pruning.choices import PruningChoices
from fipray.recipes.pruning.task import Task
from fipray.recipes.trial import Attempt, Bench, best_radius

_logger = logging.getLogger(__name__)
USUAL_RADIUS, USUAL_STEPS = 0.05, 1000  # a radius that suits many networks with so many steps
LONGER = 0.25  # a path N times as long takes a radius N^-LONGER times as large: measured on digits, where it is flat
GUARDED = 2.0  # times the distance of a short path: nearer, shorter steps only hinder the recovery from lost weights
AS_GOOD = 1.03  # ratio of distances after short paths that says nothing of long ones
BATCH_SIZES = (128, 64, 32)
WANTED_STEPS = 400  # with fewer steps in the budget, batches become smaller
MOST_STEPS = 20_000  # more have not been seen to help
TRIAL, MEASURING = 0.15, 0.1  # fractions of a budget in seconds
NUM_ATTEMPTS = 5  # about as many short paths make up a trial
FEWEST, MOST = 8, 60  # steps of a short path
FARTHEST = 8**0.5  # functional distance of two classifiers that are sure of other classes on every input
SHARE, LARGER_SHARE = 0.15, 0.4  # of the first path's steps, for the path to a lower sparsity
MUCH = 0.15  # fraction of classes that a short path changes above which the first path is unlikely to be the result
TELLING, LONGEST = 200, 300  # fewest and most steps of paths that tell which statistics of BatchNorm are better


@dataclass(eq=False)
class Trial:
    """One trial. Each decision is a method; its reason is added to `reasons`.

    Args:
        task: what is to be pruned.
        machine: threads and device.
    """

    task: Task
    machine: Machine

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.reasons: list[str] = []
        self._pace = 0.0  # seconds of a step with the chosen batch size; 0 until it is measured
        data = self.task.data
        self.bench = Bench(
            self.task.subject,
            self.machine,
            min(len(data.anchors), 1024),
            min(len(data.held_out), 256),
            self.task.seed,
        )

    @property
    def given(self) -> Mapping[str, Any]:
        """Settings that are not to be chosen."""
        return self.task.overrides

    def choices(self) -> tuple[PruningChoices, tuple[str, ...]]:
        """Choose all settings.

        Returns:
            Settings and reasons.
        """
        choices = PruningChoices(**{"batch_statistics": self._has_norms, "mirrored": self._is_mirrored, **self.given})
        choices = self._batch_size(choices)
        choices, best = self._radius(choices)
        choices, best = self._matches(choices, best)
        choices, best = self._statistics(choices, best)
        choices = self._fallback(choices, best)
        choices = self._guard(choices, best)
        choices = self._lengths(choices, best)
        return choices, tuple(self.reasons)

    @cached_property
    def _has_norms(self) -> bool:
        norms = [one for one in self.task.subject.module.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
        if not norms:
            return False
        try:
            check_norms_move(self.bench.problem.network)
        except NetworkError:
            self.reasons.append("BatchNorm keeps its statistics, because its scales and shifts are fixed.")
            return False
        self.reasons.append("BatchNorm uses the statistics of each batch in short paths.")
        return True

    @cached_property
    def _is_mirrored(self) -> bool:
        held_out = self.bench.problem.held_out
        if held_out is None or not self.task.subject.is_classifier or not are_images(held_out.inputs):
            return False
        network = self.bench.problem.network
        _logger.info("trial: outputs of the base network on mirrored images")
        outputs = network.outputs(network.weights, held_out.inputs.flip(-1))
        found = self.bench.agreement.between(outputs, network.outputs(network.weights, held_out.inputs))
        is_like = found >= LEAST_AGREEMENT
        what = "so mirror images are anchors, too" if is_like else "so no mirror images are used"
        self.reasons.append(f"The base network agrees with itself on {found:.0%} of mirrored held-out images, {what}.")
        return is_like

    def _batch_size(self, choices: PruningChoices) -> PruningChoices:
        if "batch_size" in self.given:
            return choices
        seconds = self.task.budget.seconds
        for size in BATCH_SIZES:
            choices = replace(choices, batch_size=min(size, max(len(self.task.data.anchors), 1)))
            if seconds is None or size == BATCH_SIZES[-1]:
                break
            self._attempt(choices, USUAL_RADIUS, 1)  # warms up
            pace = self._attempt(choices, USUAL_RADIUS, 2).seconds
            if (1 - TRIAL - MEASURING) * seconds / pace >= WANTED_STEPS:
                break
        self.reasons.append(f"Batches of {choices.batch_size} anchors.")
        return choices

    def _radius(self, choices: PruningChoices) -> tuple[PruningChoices, Attempt]:
        num_steps = self._num_steps(choices)
        if "radius" in self.given:
            return choices, self._attempt(choices, choices.radius, num_steps)
        usual = _scaled(USUAL_RADIUS, USUAL_STEPS, num_steps)
        nearest, attempts = best_radius(lambda tried: self._attempt(choices, tried, num_steps), usual)
        good = [tried for tried in attempts if attempts[tried].distance <= AS_GOOD * attempts[nearest].distance]
        # Short paths tell too long steps from good ones, but hardly good ones from too short ones.
        radius = min(good or [nearest], key=lambda tried: abs(math.log(tried / usual)))
        tried = ", ".join(f"{each:g} ({attempts[each].distance:.2f})" for each in sorted(attempts))
        self.reasons.append(
            f"Radius {radius:g} of |w0| in short paths of {num_steps} steps: of those that stay about as near to the "
            f"base network on {self.bench.num_held_out} held-out inputs as the best, it is the most usual; radii and "
            f"distances were {tried}."
        )
        return replace(choices, radius=radius), attempts[radius]

    def _matches(self, choices: PruningChoices, best: Attempt) -> tuple[PruningChoices, Attempt]:
        if "matches" in self.given or not self.task.subject.is_classifier or choices.stepper != "first_order":
            return choices, best
        other = replace(choices, matches="logits")
        attempt = self._attempt(other, choices.radius, self._num_steps(choices))
        is_better = attempt.distance < best.distance
        kept = "logits" if is_better else "class probabilities"
        self.reasons.append(
            f"Steps match {kept}: {attempt.distance:.2f} from the base network after matching logits, "
            f"{best.distance:.2f} after matching class probabilities."
        )
        return (other, attempt) if is_better else (choices, best)

    def _statistics(self, choices: PruningChoices, best: Attempt) -> tuple[PruningChoices, Attempt]:
        """Compare BatchNorm's two ways in longer paths: right after pruning, statistics of the batch always lead."""
        seconds = self.task.budget.seconds
        num_steps = (self.task.budget.steps or 0) // 5
        if seconds is not None:
            num_steps = int(TRIAL * seconds / 2 / best.seconds)
        num_steps = min(num_steps, LONGEST)
        if "batch_statistics" in self.given or not choices.batch_statistics or num_steps < TELLING:
            return choices, best
        other = replace(choices, batch_statistics=False)
        moving, fixed = (self._attempt(one, choices.radius, num_steps) for one in (choices, other))
        is_better = fixed.distance < moving.distance
        self.reasons.append(
            f"BatchNorm {'keeps its statistics' if is_better else 'does so to the end'}: after {num_steps} steps, "
            f"{fixed.distance:.2f} from the base network with its own statistics, {moving.distance:.2f} with those of "
            "the batches."
        )
        return (other, replace(best, seconds=fixed.seconds)) if is_better else (choices, best)

    def _fallback(self, choices: PruningChoices, best: Attempt) -> PruningChoices:
        if "fallback" in self.given:
            return choices
        target, lost = self.task.sparsity, 1 - best.agreement
        said = f"After the best short path to {target:.0%} sparsity, agreement with the base network was {1 - lost:.1%}"
        if lost <= self.task.allowance:
            self.reasons.append(f"{said}, so a second path to a lower sparsity is not needed.")
            return choices
        lower = round(1 - (1 - target) ** 0.5, 2)
        share = self.given.get("share", SHARE if lost <= MUCH else LARGER_SHARE)
        self.reasons.append(
            f"{said}: in case the path loses too much, one of {share:.0%} of its steps leads to {lower:.0%} sparsity."
        )
        return replace(choices, fallback=lower, share=share)

    def _guard(self, choices: PruningChoices, best: Attempt) -> PruningChoices:
        if "guard" in self.given or not math.isfinite(best.distance) or best.distance <= 0:
            return choices
        every = choices.guard_every
        # With a budget in steps nothing is timed, so that the same call chooses the same again.
        if "guard_every" not in self.given and self.task.budget.seconds is not None:
            # A look costs a forward pass on 256 inputs, and all looks together at most a twentieth of the steps.
            look = self.bench.forward_seconds * self.bench.num_held_out
            every = max(10, math.ceil(look / (0.05 * best.seconds)))
        limit = float(f"{GUARDED * best.distance:.3g}")
        if self.task.subject.is_classifier and limit >= FARTHEST:
            return choices  # no network is as far, so looking for it is of no use
        self.reasons.append(
            f"Every {every} steps, steps become shorter where held-out inputs are further than {limit:g} from the base "
            f"network, {GUARDED:g} times as far as after the short path."
        )
        return replace(choices, guard=limit, guard_every=every)

    def _lengths(self, choices: PruningChoices, best: Attempt) -> PruningChoices:
        """Choose the numbers of anchors, measured points and steps, which share what is left of the budget."""
        data, forward, seconds = self.task.data, self.bench.forward_seconds, self.task.budget.seconds
        pool = len(data.anchors) * (2 if choices.mirrored else 1)
        paths = 1 + choices.share * (choices.fallback > 0)  # of the length of the first
        num_anchors, num_points, num_steps = pool, 5, self.task.budget.steps or 0
        if seconds is not None:
            num_anchors = min(pool, max(int(MEASURING * seconds / forward), 8 * choices.batch_size))
            left = seconds - (time.perf_counter() - self.began)
            look = forward * (min(num_anchors, 1000) + 3 * min(len(data.held_out), 2000))
            num_points = 1 if look * 12 > MEASURING * seconds else 5
            measuring = (look * (num_points + 1) + num_anchors * forward) * math.ceil(paths)
            if measuring > left / 2:
                # Without steps there is nothing to measure, so the run rather takes longer.
                self.reasons.append(
                    f"The budget is short for this network: what is measured takes about {measuring:.0f} s of the "
                    f"{left:.0f} s that are left, and half of these go to steps, so the run takes longer."
                )
            left = max(left - measuring, left / 2)
            num_steps = min(int(left / (1.05 * best.seconds * paths)), MOST_STEPS)
        num_steps = max(num_steps, 10)
        chosen = {"num_anchors": num_anchors, "num_points": num_points, "num_steps": num_steps, **self.given}
        choices = PruningChoices(**{**asdict(choices), **chosen})
        choices = self._for_longer(choices)
        spent = time.perf_counter() - self.began
        self.reasons.append(
            f"{choices.num_steps:,} steps on {choices.num_anchors:,} anchors: a step takes {1000 * best.seconds:.3g} "
            f"ms here, and the budget is {self.task.budget.text}, of which the trial took {spent:.0f} s."
        )
        return choices

    def _for_longer(self, choices: PruningChoices) -> PruningChoices:
        """Choose the radius of the whole path: a longer one recovers as much with shorter steps, and loses less."""
        short = self._num_steps(choices)
        if "radius" in self.given or choices.num_steps <= short:
            return choices
        radius = _scaled(choices.radius, short, choices.num_steps)
        self.reasons.append(f"Radius {radius:g} for the whole path, which has more steps than the short ones.")
        return replace(choices, radius=radius)

    def _num_steps(self, choices: PruningChoices) -> int:
        """Count the steps of a short path."""
        budget = self.task.budget
        if budget.seconds is None:
            return min(max((budget.steps or 0) // 20, FEWEST), MOST)
        if not self._pace:
            self._pace = self._attempt(choices, USUAL_RADIUS, 2).seconds
        return min(max(int(TRIAL * budget.seconds / (NUM_ATTEMPTS * self._pace)), FEWEST), MOST)

    def _attempt(self, choices: PruningChoices, radius: float, num_steps: int) -> Attempt:
        objective, settings = self.task.short(replace(choices, radius=radius, num_steps=num_steps))
        matched = f"matching {choices.matches}" if choices.stepper == "first_order" else choices.stepper
        what = f"radius {radius:.3g}, batches of {choices.batch_size}, {matched}"
        return self.bench.tried(objective, settings, what)


def _scaled(radius: float, before: int, after: int) -> float:
    """Scale a radius that suits paths of some number of steps to another number."""
    return float(f"{radius * (before / after) ** LONGER:.3g}")
