"""A traced path, its points, and the choice of points that are measured and kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import UsageError
from fipray.networks import Network
from fipray.paths.display import charts, listing, table
from fipray.paths.outcome import Outcome
from fipray.registry import spec

Probe = Callable[[Tensor], float]


@dataclass(frozen=True)
class PathPoint:
    """Accepted point of a path. Measured quantities are NaN where nothing was measured.

    Args:
        step: number of steps proposed so far; 0 at the start.
        weights: [P].
        radius: largest L2 length of the next step, in the unit of the weights.
        seconds: wall-clock time since the path began.
        functional_distance: functional distance to the start on anchors.
        functional_distance_held_out: the same on held-out inputs, which no step uses.
        objective_value: objective on anchors.
        sparsity: fraction of weights that are zero, 0..1.
        probes: values of the probes, by name.
        distances: functional distance of each kept quantity on anchors, by name.
        distances_held_out: the same on held-out inputs.
        solver_state: tensors from which the path continues exactly as if it had never stopped; empty where they were
            not kept (`SaveAt.solver_state`).
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
    """Describe which measurements or weights of a point are NaN or infinite.

    Args:
        point: a measured point.

    Returns:
        A phrase such as "the objective was nan"; empty where everything is finite.
    """
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
        # First in the phrase: everything else that is not finite follows from the weights.
        found.insert(0, f"{broken} of {len(point.weights)} weights were not finite")
    return " and ".join(found)


# The representation of a dataclass would print every tensor.
@dataclass(frozen=True, repr=False)
class WeightPath:
    """Measured points of a path and its outcome. In a notebook it is shown as a table and two curves.

    Args:
        points: measured points in order of their steps, the first of them the start. Everything measured is finite.
        outcome: reason why the path ended.
        network: network whose weights the points are; None where it was not recorded.
    """

    points: tuple[PathPoint, ...]
    outcome: Outcome
    network: Network | None = field(default=None, compare=False)

    @property
    def end(self) -> PathPoint:
        """Last point."""
        return self.points[-1]

    @property
    def weights(self) -> Tensor:
        """Weights [K, P] of all points."""
        return torch.stack([point.weights for point in self.points])

    @property
    def module(self) -> nn.Module:
        """Copy of the module with the weights of the last point, in evaluation or training mode as it was given.

        Raises:
            UsageError: if the network was not recorded.
        """
        if self.network is None:
            raise UsageError("this path has no network: use Network.module_at(path.end.weights)")
        return self.network.module_at(self.end.weights)

    def __repr__(self) -> str:
        return listing("WeightPath", self._rows())

    def _repr_html_(self) -> str:
        points = self.points
        objective = {"objective": [point.objective_value for point in points]}
        distance = {
            "anchors": [point.functional_distance for point in points],
            "held-out inputs": [point.functional_distance_held_out for point in points],
        }
        curves = charts([point.step for point in points], {"objective": objective, "functional distance": distance})
        return table("WeightPath", self._rows()) + curves

    def _rows(self) -> dict[str, str]:
        start, end = self.points[0], self.points[-1]
        gain = start.objective_value - end.objective_value
        rows = {
            "outcome": f"{self.outcome.kind}: {self.outcome.sentence}",
            "steps": f"{end.step:,} (points kept: {len(self.points):,})",
            "functional distance, anchors": f"{end.functional_distance:.4g}",
            "functional distance, held-out inputs": f"{end.functional_distance_held_out:.4g}",
            "objective": f"{start.objective_value:.4g} at the start, {end.objective_value:.4g} at the end",
            "gain": f"{gain:.4g}",
            "sparsity": f"{end.sparsity:.4g}",
        }
        # The distance of a single kept quantity is the functional distance itself.
        if len(end.distances_held_out) > 1:
            for name, distance in end.distances_held_out.items():
                rows[f"distance of {name!r}, held-out inputs"] = f"{distance:.4g}"
        return rows


@spec("save_at")
@checked
@dataclass(frozen=True)
class SaveAt:
    """Choice of the points of a path that are measured and kept. The start and the end are always among them.

    Args:
        num_points: number of points, evenly spaced over the steps, at least 1.
        solver_state: keep the state of the stepper with each point, from which a path can be resumed. For a first-order
            stepper that is twice the size of the weights.
        also: fractions of the path, above 0 and up to 1, at which a further point is kept.

    Raises:
        UsageError: for a number out of range.
    """

    num_points: int = 10
    solver_state: bool = True
    also: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # Not `< 1`: NaN fails every comparison and is refused this way.
        if not self.num_points >= 1:
            raise UsageError(f"num_points is at least 1; {self.num_points} was given")
        if not all(0 < fraction <= 1 for fraction in self.also):
            raise UsageError(f"also holds fractions of the path, above 0 and up to 1; {self.also} was given")

    def and_also(self, fractions: Iterable[float]) -> SaveAt:
        """Add fractions of the path at which a point is kept.

        Args:
            fractions: above 0 and up to 1.

        Returns:
            A choice that includes them.
        """
        return replace(self, also=(*self.also, *fractions))

    def steps(self, num_steps: int) -> tuple[int, ...]:
        """Return the steps at which the fractions in `also` are reached.

        Args:
            num_steps: number of steps of the whole path.

        Returns:
            For each fraction the last step within it, at least 1: a milestone is met at the latest there, and the step
            after it already works on the next one.
        """
        # With a margin for rounding: 0.29 * 100 is 28.999999999999996.
        return tuple(max(1, int(fraction * num_steps + 1e-9)) for fraction in self.also)

    def due(self, last: int, step: int, num_steps: int) -> bool:
        """Decide whether a point is kept.

        Args:
            last: step of the last point that was kept.
            step: step of the point in question.
            num_steps: number of steps of the whole path.

        Returns:
            True where a mark lies in (last, step].
        """
        # The quotient rises exactly where a mark k * num_steps / num_points lies in (last, step].
        evenly = step * self.num_points // num_steps > last * self.num_points // num_steps
        return evenly or any(last < mark <= step for mark in self.steps(num_steps))

    def without_pause(self, points: Sequence[PathPoint], num_steps: int) -> list[PathPoint]:
        """Drop the point at which a path was paused, unless it would have been kept anyway.

        A resumed path thereby ends up with exactly the points of the uninterrupted one.

        Args:
            points: points so far, in order.
            num_steps: number of steps of the whole path.

        Returns:
            The points without the last one where no mark lies at it.
        """
        # The start is always kept, so a single point is never dropped.
        paused = len(points) > 1 and not self.due(points[-2].step, points[-1].step, num_steps)
        return list(points[:-1] if paused else points)
