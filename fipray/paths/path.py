"""A path and its points; which points are kept, and what is measured at them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec

if TYPE_CHECKING:
    from fipray.paths.events import Outcome

Probe = Callable[[Tensor], float]


@dataclass(frozen=True)
class PathPoint:
    """An accepted stop on a path. What is measured is NaN where nothing was measured.

    step: proposals made so far; weights: [P]; radius: the cap on the next step; seconds: since the path began;
    functional_distance: to the start, on anchors; functional_distance_held_out: the same on inputs that no step saw;
    objective_value: on anchors; sparsity: the fraction of weights that are zero; probes: a number each, by name;
    distances, distances_held_out: the functional distance of each kept quantity, by name;
    solver_state: with which a path goes on from here exactly as if it had never stopped.
    """

    step: int
    weights: Tensor
    radius: float
    seconds: float
    functional_distance: float = float("nan")
    functional_distance_held_out: float = float("nan")
    objective_value: float = float("nan")
    sparsity: float = float("nan")
    probes: Mapping[str, float] = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)
    distances_held_out: Mapping[str, float] = field(default_factory=dict)
    solver_state: Mapping[str, Tensor] = field(default_factory=dict)


def not_finite(point: PathPoint) -> str:
    """What of a measured point is NaN or infinite, in words; empty where nothing is."""
    measured = {
        "the radius": point.radius,
        "the functional distance on anchors": point.functional_distance,
        "the functional distance on held-out inputs": point.functional_distance_held_out,
        "the objective": point.objective_value,
        **{f"the distance of {name!r} on anchors": value for name, value in point.distances.items()},
        **{f"the distance of {name!r} on held-out inputs": value for name, value in point.distances_held_out.items()},
        **{f"the probe {name!r}": value for name, value in point.probes.items()},
    }
    found = [f"{name} was {value}" for name, value in measured.items() if not math.isfinite(value)]
    if broken := int((~torch.isfinite(point.weights)).sum()):
        found.insert(0, f"{broken} of {len(point.weights)} weights were not finite")
    return " and ".join(found)


@dataclass(frozen=True)
class WeightPath:
    """The measured points of a path, the first of them its start, and why it ended. All that was measured is finite."""

    points: tuple[PathPoint, ...]
    outcome: Outcome

    @property
    def end(self) -> PathPoint:
        return self.points[-1]

    @property
    def weights(self) -> Tensor:
        """The weights [K, P] of all measured points."""
        return torch.stack([point.weights for point in self.points])


@spec("save_at")
@checked
@dataclass(frozen=True)
class SaveAt:
    """Measure and keep `num_points` points, evenly spaced over the steps; the start and the end are always kept.

    solver_state: whether points carry the state of their stepper, from which a path can be resumed; with a first-order
    step that is twice the size of the weights.
    also: shares of the path, above 0 and up to 1, after which a point is kept besides.
    """

    num_points: int = 10
    solver_state: bool = True
    also: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.num_points >= 1:
            raise UsageError(f"at least one point is kept; num_points={self.num_points} was given")
        if not all(0 < fraction <= 1 for fraction in self.also):
            raise UsageError(f"also names shares of the path, above 0 and up to 1; {self.also} was given")

    def and_also(self, shares: Iterable[float]) -> SaveAt:
        return replace(self, also=(*self.also, *shares))

    def steps(self, num_steps: int) -> tuple[int, ...]:
        """The last steps, 1 or later, within the shares `also`: what a path is then, it need not be a step later."""
        return tuple(max(1, int(fraction * num_steps + 1e-9)) for fraction in self.also)

    def due(self, last: int, step: int, num_steps: int) -> bool:
        """Whether a mark lies in (last, step]."""
        evenly = step * self.num_points // num_steps > last * self.num_points // num_steps
        return evenly or any(last < mark <= step for mark in self.steps(num_steps))

    def without_pause(self, points: Sequence[PathPoint], num_steps: int) -> list[PathPoint]:
        """The points so far without the last of them, where it lies at no mark: it is kept for as long as a path waits.

        So a path that was paused has the points of the uninterrupted one in the end.
        """
        paused = len(points) > 1 and not self.due(points[-2].step, points[-1].step, num_steps)
        return list(points[:-1] if paused else points)
