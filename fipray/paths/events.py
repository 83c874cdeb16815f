"""Events: conditions under which a path ends early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from fipray.border import checked, described
from fipray.errors import UsageError
from fipray.paths.path import PathPoint
from fipray.registry import spec


@runtime_checkable
class Event(Protocol):
    """A condition under which a path ends, asked at every kept point.

    goal: whether the path has then reached what it was walked for; a restricted objective then gets the whole of its
    restriction.
    limit: whether the path must not go where the event happens: such a point is not kept, and the path ends at the last
    place before it, on the way from the last kept point, where the event does not happen.
    """

    @property
    def goal(self) -> bool: ...

    @property
    def limit(self) -> bool: ...

    def reason(self, point: PathPoint) -> str | None:
        """A sentence that says why the path ends at `point`, all of which is finite; or None."""
        ...


def broken_answer(events: Sequence[Event], point: PathPoint) -> str:
    """Which of the events answers with NaN or infinity, in words; empty where none does."""
    answers: list[tuple[str, object]] = [(type(event).__name__, event.reason(point)) for event in events]
    return " and ".join(
        f"the reason that {name} gave was {answer}"
        for name, answer in answers
        if isinstance(answer, float) and not math.isfinite(answer)
    )


def reason_of(event: Event, point: PathPoint) -> str | None:
    """Why the path ends at `point`, or None. Raises UsageError where the event's `reason` gives anything else."""
    reason = event.reason(point)
    if reason is not None and not isinstance(reason, str):
        raise UsageError(
            f"{type(event).__name__}.reason() returned {described(reason)}; expected a sentence that says why the path "
            "ends, or None"
        )
    return reason


@spec("objective_below")
@checked
@dataclass(frozen=True)
class ObjectiveBelow:
    """The objective has come to `value`, finite, or below."""

    value: float
    goal: ClassVar[bool] = True
    limit: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise UsageError(f"a value to stop at is a finite number; {self.value} was given")

    def reason(self, point: PathPoint) -> str | None:
        if point.objective_value <= self.value:
            return f"the objective came to {point.objective_value:.4g}, at most {self.value:.4g}, at step {point.step}"
        return None


@dataclass(frozen=True)
class _OfMeasure:
    measure: str
    value: float
    goal: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise UsageError(f"a value to stop at is a finite number; {self.value} was given")

    @property
    def limit(self) -> bool:
        return not self.goal

    def of(self, point: PathPoint) -> float:
        if self.measure not in point.probes:
            there = ", ".join(map(repr, point.probes)) or "none"
            raise UsageError(f"an event is about the measure {self.measure!r}; measured are: {there}")
        return point.probes[self.measure]

    def said(self, point: PathPoint, word: str) -> str:
        came = "came" if self.goal else "would have come"
        return f"{self.measure} {came} to {self.of(point):.4g}, {word} {self.value:.4g}, by step {point.step}"


@spec("measure_above")
@checked
@dataclass(frozen=True)
class MeasureAbove(_OfMeasure):
    """A measure, by its name, is above `value`: the path ends before, within it, or, with `goal`, has got there."""

    def reason(self, point: PathPoint) -> str | None:
        return self.said(point, "above") if self.of(point) > self.value else None


@spec("measure_below")
@checked
@dataclass(frozen=True)
class MeasureBelow(_OfMeasure):
    """A measure, by its name, is below `value`: the path ends before, within it, or, with `goal`, has got there."""

    def reason(self, point: PathPoint) -> str | None:
        return self.said(point, "below") if self.of(point) < self.value else None


@spec("functional_distance_above")
@checked
@dataclass(frozen=True)
class FunctionalDistanceAbove:
    """The functional distance on held-out inputs would pass `distance` > 0: the path ends before, within it.

    of: name of one kept quantity whose distance is meant; "" for that of all.
    """

    distance: float
    of: str = ""
    goal: ClassVar[bool] = False
    limit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.distance < math.inf:
            raise UsageError(f"a functional distance to stop at is above 0 and finite; {self.distance} was given")

    def reason(self, point: PathPoint) -> str | None:
        if self.of and self.of not in point.distances_held_out:
            there = ", ".join(map(repr, point.distances_held_out)) or "none"
            raise UsageError(f"an event is about the distance of {self.of!r}; the kept quantities are: {there}")
        found = point.distances_held_out[self.of] if self.of else point.functional_distance_held_out
        if found > self.distance:
            what = f"distance of {self.of!r}" if self.of else "functional distance"
            return (
                f"the {what} on held-out inputs would have come to {found:.4g}, above {self.distance:.4g}, by step "
                f"{point.step}"
            )
        return None
