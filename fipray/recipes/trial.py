"""Short trials: seconds per step, and how far a short path stays from the base network on held-out inputs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fipray.paths import Objective, Problem, Settings, walk
from fipray.paths.problem import anchors_and_held_out
from fipray.recipes.machine import Machine
from fipray.recipes.subject import Subject
from fipray.study import Agreement
from fipray.study.referenced import ReferencedArray
from fipray.study.tensors import tensor_of

_logger = logging.getLogger(__name__)
LEAST, MOST = 1e-4, 1.0  # radii that are ever tried, in units of |w0|


@dataclass(frozen=True)
class Attempt:
    """One short path of a trial.

    Args:
        distance: functional distance to the base network on held-out inputs at its end; infinite where it broke.
        agreement: agreement with the base network there.
        seconds: wall-clock seconds per step.
    """

    distance: float
    agreement: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Bench:
    """Part of a subject's data on which trials run, on the device of the workers.

    Args:
        subject: network and data.
        machine: threads and device.
        num_anchors: number of anchors that trials use, drawn at random.
        num_held_out: number of held-out inputs that judge them.
        seed: seed of the draw and of all trials.
    """

    subject: Subject
    machine: Machine
    num_anchors: int
    num_held_out: int
    seed: int = 0

    @cached_property
    def problem(self) -> Problem:
        network = self.subject.network.to(self.machine.device)
        _logger.info(f"trial: outputs of the base network on {self.num_anchors:,} anchors")
        return Problem(network, self._some_anchors, self._held_out, geometry=self.subject.geometry)

    @property
    def agreement(self) -> Agreement:
        return self.subject.agreement(self.num_held_out)

    def tried(self, objective: Objective, settings: Settings, what: str) -> Attempt:
        """Trace one short path without labels, and judge its end.

        Args:
            objective: secondary objective.
            settings: settings of the short path.
            what: what is tried, in a few words for people.

        Returns:
            What came of it.
        """
        problem = self.problem
        say_short_path(what, settings.num_steps)
        anchors, held_out = anchors_and_held_out(problem)
        began, weights = time.perf_counter(), problem.start
        for point in walk(problem, anchors, objective, settings):
            weights = point.weights
        seconds = (time.perf_counter() - began) / settings.num_steps
        _logger.info(f"trial: {what}, judging the end of the short path on {len(held_out):,} held-out inputs")
        distance = problem.distances(weights, held_out)
        total = math.hypot(*distance.values())
        if not math.isfinite(total):
            return Attempt(math.inf, 0.0, seconds)
        outputs = problem.network.outputs(weights, held_out.inputs)
        return Attempt(total, self.agreement.between(outputs, self._base), seconds)

    @cached_property
    def forward_seconds(self) -> float:
        """Wall-clock seconds of one input's forward pass, in batches."""
        inputs = anchors_and_held_out(self.problem)[1].inputs[:128]
        began = time.perf_counter()
        self.problem.network.outputs(self.problem.start, inputs)
        return (time.perf_counter() - began) / len(inputs)

    @cached_property
    def _base(self) -> Tensor:
        return self.problem.network.outputs(self.problem.start, self._held_out)

    @cached_property
    def _some_anchors(self) -> Tensor:
        anchors = tensor_of(self.subject.data.anchors)
        chosen = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(self.seed))[: self.num_anchors]
        if isinstance(self.subject.data.anchors, ReferencedArray):
            # Still by reference, so that the duration of a step is that with reading.
            return tensor_of(self.subject.data.anchors.take(chosen.numpy())).to(self.machine.device)
        return anchors[chosen].to(self.machine.device)

    @cached_property
    def _held_out(self) -> Tensor:
        return tensor_of(self.subject.data.held_out)[: self.num_held_out].to(self.machine.device)


def say_short_path(what: str, num_steps: int) -> None:
    """Log that a short path begins.

    Args:
        what: what is tried, in a few words for people.
        num_steps: number of its steps.
    """
    _logger.info(f"trial: {what}, short path of {num_steps} {'step' if num_steps == 1 else 'steps'}")


def best_radius(
    attempt: Callable[[float], Attempt], first: float, factor: float = 2.5, at_most: int = 6
) -> tuple[float, dict[float, Attempt]]:
    """Search the radius of smallest held-out distance, upwards or downwards from a first one while it improves.

    Args:
        attempt: runs a short path with a radius in units of |w0|.
        first: first radius.
        factor: ratio of neighbouring radii, above 1.
        at_most: largest number of attempts.

    Returns:
        The best radius, and all attempts by radius.
    """
    found = {first: attempt(first)}
    best = first
    for ratio in (factor, 1 / factor):
        for radius in _further(best, ratio):
            if len(found) >= at_most:
                return best, found
            found[radius] = attempt(radius)
            if not found[radius].distance < found[best].distance:
                break
            best = radius
        if best != first:
            break  # downwards lies the first radius, which is worse
    return best, found


def between(best: float, found: Mapping[float, Attempt], factor: float) -> float:
    """Refine the best radius by a parabola through it and its neighbours, over the logarithm of the radius.

    Neighbours are several times as large and as small, so the best of them says little of where between them it lies.

    Args:
        best: radius of smallest distance.
        found: attempts by radius.
        factor: ratio of neighbouring radii, above 1.

    Returns:
        Radius of the parabola's minimum, less than half a neighbour away; `best` where a neighbour was not tried or
        broke.
    """
    tried = sorted(found)
    place = tried.index(best)
    if not 0 < place < len(tried) - 1:
        return best
    smaller, middle, larger = (found[radius].distance for radius in tried[place - 1 : place + 2])
    curvature = smaller - 2 * middle + larger
    if not 0 < curvature < math.inf:
        return best
    shift = max(-0.5, min((smaller - larger) / (2 * curvature), 0.5))
    return float(f"{best * factor**shift:.3g}")


def _further(radius: float, ratio: float) -> Iterator[float]:
    while LEAST <= (radius := float(f"{radius * ratio:.3g}")) <= MOST:
        yield radius
