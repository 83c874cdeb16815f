"""Measurement of the points that a path keeps, and the events that end it there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fipray.border import number
from fipray.errors import UsageError
from fipray.networks import sparsity_of
from fipray.paths.batch import Batch
from fipray.paths.calls import restrict, unchanged, value
from fipray.paths.events import broken_answer, reason_of
from fipray.paths.improvement import judged
from fipray.paths.objective import Objective
from fipray.paths.outcome import NOT_FINITE, Outcome
from fipray.paths.path import PathPoint, Probe, SaveAt, WeightPath, not_finite
from fipray.paths.problem import Problem, anchors_and_held_out
from fipray.paths.quantities import total
from fipray.paths.radius import first_radius
from fipray.paths.settings import Settings

NUM_MEASURED = 1000  # first anchors, the same at all points: objective and functional distance are measured on them
NUM_BISECTIONS = 6  # a path that passes a limit ends within a 64th of the way between two points


@dataclass
class Checkpoints:
    """Saved points of a path under way: measures each, and decides with the events whether the path ends there.

    Args:
        problem: quantities that must stay, with anchors and held-out inputs.
        objective: secondary objective.
        settings: settings of the path; its events and its radius control are used.
        save_at: choice of the points that are kept, with the objective's milestones.
        probes: functions of the weights [P] that return a number, by name.
        on_point: called with each saved point.
        keeps_state: keep the solver state with each point.
        on_stage: called with what is measured.
        points: measured points so far.
    """

    problem: Problem
    objective: Objective
    settings: Settings
    save_at: SaveAt
    probes: Mapping[str, Probe]
    on_point: Callable[[PathPoint], None] | None
    keeps_state: bool
    on_stage: Callable[[str], None]
    points: list[PathPoint] = field(default_factory=list)

    def __post_init__(self) -> None:
        anchors, self._held_out = anchors_and_held_out(self.problem)
        self._anchors: Batch = anchors.first(NUM_MEASURED)

    def begin(self, resume: Sequence[PathPoint]) -> tuple[PathPoint, Outcome | None]:
        """Take over the points of an interrupted path, or measure the start.

        Args:
            resume: points so far; none for a path at its start.

        Returns:
            The point from which the path continues, and its outcome where it has ended there already.

        Raises:
            UsageError: where something measured at the start is not finite.
        """
        self.points = self.save_at.without_pause(resume, self.settings.num_steps)
        if not self.points:
            radius = first_radius(self.settings.radius, self.problem)
            start = self._measured(PathPoint(0, self.problem.start, radius, 0.0))
            if broken := not_finite(start):
                raise UsageError(
                    f"{broken} at the path's start, so nothing can be compared with it: check the network, the "
                    "objective and the probes there"
                )
            self._keep(start)
        elif self.problem.others:
            # Other networks may be new since the pause: the start is measured again so that the objective at the start
            # and at the end compare the same networks.
            first = self.points[0]
            self.points[0] = replace(first, objective_value=self._value(first.weights))
        last = resume[-1] if resume else self.points[-1]
        if last is self.points[-1] and last.step > 0:
            return self._after_events(last)  # the interruption may have come between this point and its event
        return last, None

    def is_due(self, point: PathPoint) -> bool:
        """Decide whether a point is measured and kept.

        Args:
            point: accepted point of the walk.

        Returns:
            True where `save_at` has a mark since the last saved point.
        """
        return self.save_at.due(self.points[-1].step, point.step, self.settings.num_steps)

    def add(self, point: PathPoint) -> tuple[PathPoint, Outcome | None]:
        """Measure a point, and keep it unless it is not finite or beyond a limit.

        Args:
            point: accepted point of the walk.

        Returns:
            The point at which the path stands, and its outcome where it ends there.
        """
        candidate = self._measured(point)
        # Limits are asked after this, because no comparison with NaN says that a limit is passed.
        if broken := self._broken(candidate):
            return self.points[-1], Outcome(NOT_FINITE, f"{broken} at step {candidate.step}")
        if passed := self._passed(candidate):
            return self._last_within(candidate), Outcome("stopped", passed)
        self._keep(candidate)
        return self._after_events(candidate)

    def finish(self, last: PathPoint, outcome: Outcome) -> WeightPath:
        """Keep the end of the path, and judge the path as a whole.

        Args:
            last: point at which the path ended.
            outcome: reason why it ended.

        Returns:
            The path. Unless it is paused, its outcome compares the objective at the end with that at the start.
        """
        points = self.points
        # The end is kept though no mark of `save_at` lies there, and once more where a restriction changed it.
        if last.step > points[-1].step or last.weights is not points[-1].weights:
            end = self._measured(last)
            if broken := self._broken(end):
                end, outcome = points[-1], Outcome(NOT_FINITE, f"{broken} at step {end.step}")
            # A paused path has not ended: this point is dropped when it is resumed, and its limits are judged then.
            elif outcome.kind != "paused" and (passed := self._passed(end)):
                end, outcome = self._last_within(end), Outcome("stopped", passed)
            if end is not points[-1]:
                if end.step == points[-1].step:  # the same point with the restriction in full
                    points.pop()
                self._keep(end)
        if outcome.kind == NOT_FINITE:
            where = f"the path ended at step {points[-1].step}, its last finite point"
            outcome = Outcome(NOT_FINITE, f"{outcome.sentence}, so {where}")
        if outcome.kind != "paused":
            outcome = judged(outcome, self.objective, points)
        return WeightPath(tuple(points), outcome, self.problem.network)

    def _measured(self, point: PathPoint) -> PathPoint:
        where = f"measuring the point at step {point.step}"
        self.on_stage(f"{where}: functional distance on {len(self._anchors):,} anchors")
        on_anchors = self.problem.distances(point.weights, self._anchors)
        self.on_stage(f"{where}: functional distance on {len(self._held_out):,} held-out inputs")
        on_held_out = self.problem.distances(point.weights, self._held_out)
        self.on_stage(f"{where}: objective")
        objective_value, probes = self._value(point.weights), dict[str, float]()
        for name, probe in self.probes.items():
            self.on_stage(f"{where}: {name}")
            probes[name] = self._probed(name, probe, point.weights)
        return replace(
            point,
            functional_distance=total(on_anchors),
            functional_distance_held_out=total(on_held_out),
            distances=on_anchors,
            distances_held_out=on_held_out,
            objective_value=objective_value,
            sparsity=sparsity_of(self.problem.network, point.weights),
            probes=probes,
            # Copies: the walk overwrites the state of a point with the next step.
            solver_state={name: value.clone() for name, value in point.solver_state.items()}
            if self.keeps_state
            else {},
        )

    def _value(self, weights: Tensor) -> float:
        return float(value(self.objective, self.problem, weights, self._anchors).detach())

    def _probed(self, name: str, probe: Probe, weights: Tensor) -> float:
        with unchanged(f"probe {name!r}", {"the weights": weights, "the start's weights": self.problem.start}):
            found = probe(weights)
        return number(found, f"probe {name!r}")

    def _keep(self, point: PathPoint) -> None:
        self.points.append(point)
        if self.on_point:
            tensors = {"the weights": point.weights, "the start's weights": self.problem.start}
            with unchanged("on_point()", tensors):
                self.on_point(point)

    def _after_events(self, point: PathPoint) -> tuple[PathPoint, Outcome | None]:
        """Ask all events at a saved point; at a goal the point gets the objective's restriction in full."""
        # All events are asked, as the restriction in full depends on whether any of them is no goal.
        reasons = [(event, reason) for event in self.settings.events if (reason := reason_of(event, point))]
        if not reasons:
            return point, None
        if all(event.goal for event, _ in reasons):
            allowed = restrict(self.objective, self.problem, point.weights, 1.0, self._anchors)
            point = replace(point, weights=allowed)
        return point, Outcome("stopped", "; ".join(reason for _, reason in reasons))

    def _broken(self, point: PathPoint) -> str:
        """Describe what is not finite in a measured point or in the answers of events; empty where nothing is."""
        return not_finite(point) or broken_answer(self.settings.events, point)

    def _passed(self, point: PathPoint) -> str:
        """Sentence that names the limits that a measured point violates; empty where it violates none."""
        limits = [event for event in self.settings.events if event.limit]
        return "; ".join(reason for event in limits if (reason := reason_of(event, point)))

    def _last_within(self, outside: PathPoint) -> PathPoint:
        """Furthest point between the last kept one and `outside`, by bisection, that violates no limit."""
        inside = found = self.points[-1]
        # Bisection, because events have no gradient; it assumes that the segment crosses the limits once.
        low, high = 0.0, 1.0
        for _ in range(NUM_BISECTIONS):
            middle = (low + high) / 2
            weights = torch.lerp(inside.weights, outside.weights, middle)
            # No walk passed this point, so no solver state belongs to it.
            between = self._measured(replace(outside, weights=weights, solver_state={}))
            if self._broken(between) or self._passed(between):
                high = middle
            else:
                low, found = middle, between
        return found
