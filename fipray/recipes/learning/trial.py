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
from fipray.recipes.learning.series import KNOWN, Series
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
            tensor_of(data.sets[f"held out {KNOWN}"]).to(device),
            geometry=self.series.subject.geometry,
            tasks={self.first: examples},
        )

    def _weights(self, choices: LearningChoices) -> tuple[LearningChoices, float]:
        """Choose beta and rate, and measure the seconds of a step."""
        pace = self._attempt(replace(choices, num_steps=3))[2]
        num_steps = min(max((self.budget.steps or 0) // 5, FEWEST), MOST)
        betas = (choices.beta,) if "beta" in self.given else BETAS
        rates = (choices.rate,) if "rate" in self.given else RATES
        if self.budget.seconds is not None:
            fits = int(TRIAL * self.budget.seconds / (len(betas) * len(rates) * pace))
            num_steps = min(max(fits, FEWEST), MOST)
        found = {
            (beta, rate): self._attempt(replace(choices, beta=beta, rate=rate, num_steps=num_steps))
            for beta in betas
            for rate in rates
        }

        def rank(pair: tuple[float, float]) -> float:
            lost, accuracy, _ = found[pair]
            # What is lost beyond the allowance counts more than what a task gains: it is lost for every earlier task.
            return accuracy - lost - 3 * max(lost - self.allowance, 0.0)

        leader = max(found, key=rank)
        # Held-out inputs are few: within the error of their accuracy all are as good, and the smallest beta forgets
        # least on the long paths, on which the new task is learned all the same.
        # Where hardly anything is learned yet, a small beta is no choice but too little.
        margin = self._error(found[leader][1]) if found[leader][1] > LEARNED else 0.0
        good = [pair for pair in found if rank(pair) >= rank(leader) - margin]
        best = max(good, key=lambda pair: (-pair[0], rank(pair)))
        lost, accuracy, seconds = found[best]
        if len(found) > 1:
            self.reasons.append(
                f"Beta {best[0]:g} and rate {best[1]:g}: of {len(found)} short paths of {num_steps} steps to "
                f"{self.first!r}, it has the smallest beta among those that cannot be told from the best, with "
                f"{accuracy:.1%} on its held-out inputs and an estimated loss of {lost:.1%} on what was known."
            )
        return replace(choices, beta=best[0], rate=best[1]), seconds

    def _error(self, accuracy: float) -> float:
        """Estimate the standard error of an accuracy on the task's held-out inputs, at least that of one of them."""
        count = len(self.series.held_out_labels(self.first))
        return max(math.sqrt(accuracy * (1 - accuracy) / count), 1 / count)

    def _length(self, choices: LearningChoices, seconds: float) -> LearningChoices:
        spent = time.perf_counter() - self.began
        examples = max(len(task.inputs) for task in self.series.tasks.values())
        num_steps = self.budget.steps or 0
        if self.budget.seconds is not None:
            left = max(self.budget.seconds - spent, 0.0)
            most = max(math.ceil(MOST_PASSES * examples / choices.batch_size), ENOUGH)
            num_steps = min(max(int(left / (1.05 * seconds * len(self.series.tasks))), 10), most)
        choices = replace(choices, **{"num_steps": num_steps, **self.given})
        self.reasons.append(
            f"{choices.num_steps:,} steps for each of {len(self.series.tasks)} tasks: a step takes "
            f"{1000 * seconds:.3g} ms here, and the budget is {self.budget.text}, of which the trial took "
            f"{spent:.0f} s."
        )
        return choices

    def _attempt(self, choices: LearningChoices) -> tuple[float, float, float]:
        """Trace a short path; return estimated loss on what is known, accuracy on the task, and seconds of a step."""
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
        inputs = tensor_of(self.series.data.sets[f"held out {self.first}"]).to(outputs.device)
        labels = torch.from_numpy(self.series.held_out_labels(self.first)).long().to(outputs.device)
        right = correct(problem.network.outputs(weights, inputs), labels)
        return (lost, float(right.double().mean()), seconds) if math.isfinite(lost) else (1.0, 0.0, seconds)


def _network(series: Series) -> Network:
    return Network.of(series.module)
