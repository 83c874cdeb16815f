"""Trial of the recipe `learn`: short paths that learn the first task."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fipray.errors import NetworkError
from fipray.networks import Network, check_norms_move
from fipray.paths import Examples, FirstOrder, LearnTask, Problem, Scheduled, Settings, walk
from fipray.paths.problem import anchors_and_held_out
from fipray.recipes.anchors import are_images
from fipray.recipes.budget import Budget
from fipray.recipes.learning.choices import LearningChoices
from fipray.recipes.learning.series import KNOWN, Series, held_out_name
from fipray.recipes.machine import Machine
from fipray.recipes.trial import say_short_path
from fipray.robustness import correct
from fipray.study import AccuracyLoss
from fipray.study.tensors import tensor_of

BETAS, RATES = (15.0, 60.0, 240.0), (1e-3, 4e-3)
TRIAL = 0.2  # fraction of a budget in seconds
FEWEST, MOST = 50, 300  # steps of a short path: in fewer, outputs for new classes hardly rise
MOST_PASSES, ENOUGH = 60, 1500  # passes through the examples of a task, and steps, beyond which none are added
LEARNED = 0.5  # accuracy on a task above which a short path has learned it
NUM_SHIFTED = 24
MORE = 2  # further betas, each a quarter of the one before, where all lose too much


def objective(task: str, choices: LearningChoices) -> LearnTask:
    """Objective of the path that learns a task.

    Args:
        task: name of the task.
        choices: settings.

    Returns:
        The objective.
    """
    return LearnTask(task, choices.batch_size)


def settings(series: Series, choices: LearningChoices, number: int) -> Settings:
    """Make the settings of the path that learns a task.

    Args:
        series: network and tasks.
        choices: settings.
        number: number of the task, from 1.

    Returns:
        Settings, with the seed of the series.
    """
    network = _network(series)
    length = float(torch.linalg.vector_norm(network.weights))
    # Logits are matched: squared distances of probabilities hardly see classes of small ones. The stored inputs grow
    # with the number of tasks, so that each counts alike only with a beta that falls.
    stepper = FirstOrder(
        choices.beta / (series.largest * number),
        temperature=math.inf,
        batch_statistics=choices.batch_statistics,
    )
    return Settings(
        stepper=stepper,
        radius=Scheduled(choices.rate * math.sqrt(network.num_moving) / length),
        num_steps=choices.num_steps,
        batch_size=choices.num_held,
        seed=series.seed,
    )


@dataclass(frozen=True)
class Attempt:
    """End of a short path.

    Args:
        lost: estimated loss of accuracy on what is known.
        accuracy: accuracy on the held-out examples of the task.
        nll: cross-entropy on these, in nats.
        seconds: wall-clock seconds of a step.
    """

    lost: float
    accuracy: float
    nll: float
    seconds: float


@dataclass(eq=False)
class Trial:
    """Trial of the recipe. Each decision is a method; its reason is added to `reasons`.

    Args:
        series: network and tasks.
        machine: threads and device.
        allowance: largest loss of accuracy.
        budget: budget of the recipe.
        given: settings that are not to be chosen.
    """

    series: Series
    machine: Machine
    allowance: float
    budget: Budget
    given: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.began = time.perf_counter()
        self.reasons: list[str] = []
        self.first = self.series.names[1]

    def choices(self) -> tuple[LearningChoices, tuple[str, ...]]:
        """Choose all settings.

        Returns:
            Settings and reasons.
        """
        images = are_images(self.series.subject.data.anchors)
        choices = LearningChoices(shifted=NUM_SHIFTED if images else 0, batch_statistics=self._has_norms())
        if images and "shifted" not in self.given:
            self.reasons.append(f"The function is kept on {NUM_SHIFTED} shifted copies of each stored image, too.")
        choices = replace(choices, **self.given)
        choices, seconds = self._weights(choices)
        return self._length(choices, seconds), tuple(self.reasons)

    def _has_norms(self) -> bool:
        if not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in self.series.module.modules()):
            return False
        try:
            check_norms_move(self.problem.network)
        except NetworkError:
            return False
        self.reasons.append("BatchNorm uses the statistics of each batch while the paths walk.")
        return True

    @cached_property
    def problem(self) -> Problem:
        device, data = self.machine.device, self.series.data
        task = data.tasks[self.first]
        examples = Examples(tensor_of(task.inputs).to(device), tensor_of(task.labels).long().to(device))
        return Problem(
            _network(self.series).to(device),
            tensor_of(data.sets[f"stored {KNOWN}"]).to(device),
            tensor_of(data.sets[held_out_name(KNOWN)]).to(device),
            geometry=self.series.subject.geometry,
            tasks={self.first: examples},
        )

    def _weights(self, choices: LearningChoices) -> tuple[LearningChoices, float]:
        """Choose beta and rate, and measure the seconds of a step."""
        pace = self._attempt(replace(choices, num_steps=3)).seconds
        num_steps = min(max((self.budget.steps or 0) // 5, FEWEST), MOST)
        betas = (choices.beta,) if "beta" in self.given else BETAS
        rates = (choices.rate,) if "rate" in self.given else RATES
        if self.budget.seconds is not None:
            fits = int(TRIAL * self.budget.seconds / (len(betas) * len(rates) * pace))
            num_steps = min(max(fits, FEWEST), MOST)

        def tried(beta: float, rate: float) -> Attempt:
            return self._attempt(replace(choices, beta=beta, rate=rate, num_steps=num_steps))

        found = {(beta, rate): tried(beta, rate) for beta in betas for rate in rates}
        best = self._best(found)
        while "beta" not in self.given and len(found) < len(betas) * len(rates) + MORE:
            # Where the smallest beta that was tried loses more than a path may, a still smaller one may be better.
            if best[0] > min(beta for beta, _ in found) or not found[best].lost > self.share:
                break
            found[best[0] / 4, best[1]] = tried(best[0] / 4, best[1])
            best = self._best(found)
        if len(found) > 1:
            self.reasons.append(self._reason(found, best, num_steps))
        return replace(choices, beta=best[0], rate=best[1]), found[best].seconds

    @property
    def share(self) -> float:
        """Loss that one path may cause: all later paths together are to stay within the allowance."""
        return self.allowance / len(self.series.tasks)

    def _best(self, found: Mapping[tuple[float, float], Attempt]) -> tuple[float, float]:
        def rank(pair: tuple[float, float]) -> float:
            lost, accuracy = found[pair].lost, found[pair].accuracy
            # What is lost beyond a path's share counts more than what a task gains: every earlier task loses it.
            return accuracy - lost - 3 * max(lost - self.share, 0.0)

        leader = max(found, key=rank)
        if found[leader].accuracy <= LEARNED:
            # Hardly anything is learned yet, and a small beta is no choice but too little: the loss tells which is on
            # its way.
            return max(found, key=lambda pair: (rank(pair), -found[pair].nll))
        # Held-out inputs are few: within the error of their accuracy all are as good, and the smallest beta forgets
        # least on the long paths, on which the new task is learned all the same.
        margin = self._error(found[leader].accuracy)
        good = [pair for pair in found if rank(pair) >= rank(leader) - margin]
        return max(good, key=lambda pair: (-pair[0], rank(pair)))

    def _reason(self, found: Mapping[tuple[float, float], Attempt], best: tuple[float, float], num_steps: int) -> str:
        chosen = found[best]
        why = "it has the smallest beta among those that cannot be told from the best"
        if chosen.accuracy <= LEARNED:
            why = "none has learned the task yet, and it is nearest to that"
        beyond = ""
        if chosen.lost > self.allowance:
            beyond = f"; that is more than the allowance of {self.allowance:.1%}, and what none of them avoids"
            if any(one.lost <= self.allowance for one in found.values()):
                beyond = f"; that is more than the allowance of {self.allowance:.1%}, but those within it learn less"
        return (
            f"Beta {best[0]:g} and rate {best[1]:g}: of {len(found)} short paths of {num_steps} steps to "
            f"{self.first!r}, {why}, with {chosen.accuracy:.1%} on its held-out inputs and an estimated loss of "
            f"{chosen.lost:.1%} on what was known{beyond}."
        )

    def _error(self, accuracy: float) -> float:
        """Estimate the standard error of an accuracy on the task's held-out inputs, at least that of one of them."""
        count = len(self.series.held_out_labels(self.first))
        return max(math.sqrt(accuracy * (1 - accuracy) / count), 1 / count)

    def _length(self, choices: LearningChoices, seconds: float) -> LearningChoices:
        spent = time.perf_counter() - self.began
        examples = max(len(task.inputs) for task in self.series.tasks.values())
        num_steps, most = self.budget.steps or 0, None
        if self.budget.seconds is not None:
            left = max(self.budget.seconds - spent, 0.0)
            most = max(math.ceil(MOST_PASSES * examples / choices.batch_size), ENOUGH)
            num_steps = min(max(int(left / (1.05 * seconds * len(self.series.tasks))), 10), most)
        all_used = num_steps == most and "num_steps" not in self.given
        choices = replace(choices, **{"num_steps": num_steps, **self.given})
        rest = " More steps than these are taken only where num_steps asks for them." if all_used else ""
        self.reasons.append(
            f"{choices.num_steps:,} steps for each of {len(self.series.tasks)} tasks: a step takes "
            f"{1000 * seconds:.3g} ms here, and the budget is {self.budget.text}, of which the trial took "
            f"{spent:.0f} s.{rest}"
        )
        return choices

    def _attempt(self, choices: LearningChoices) -> Attempt:
        """Trace a short path and judge its end."""
        problem = self.problem
        anchors, held_out = anchors_and_held_out(problem)
        began, weights = time.perf_counter(), problem.start
        say_short_path(f"beta {choices.beta:g}, rate {choices.rate:g}", choices.num_steps)
        for point in walk(problem, anchors, objective(self.first, choices), settings(self.series, choices, 1)):
            weights = point.weights
        seconds = (time.perf_counter() - began) / choices.num_steps
        outputs = problem.network.outputs(weights, held_out.inputs)
        before = problem.network.outputs(problem.start, held_out.inputs)
        lost = AccuracyLoss(standard_errors=0.0).between(outputs, before)
        inputs = tensor_of(self.series.data.sets[held_out_name(self.first)]).to(outputs.device)
        labels = torch.from_numpy(self.series.held_out_labels(self.first)).long().to(outputs.device)
        own = problem.network.outputs(weights, inputs)
        nll = float(nn.functional.cross_entropy(own.double(), labels))
        if not (math.isfinite(lost) and math.isfinite(nll)):
            return Attempt(1.0, 0.0, math.inf, seconds)
        return Attempt(lost, float(correct(own, labels).double().mean()), nll, seconds)


def _network(series: Series) -> Network:
    return Network.of(series.module).computed(series.subject.compute)
