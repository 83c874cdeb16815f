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
    """Condition under which a path ends, evaluated at every saved point.

    Attributes:
        goal: True where the event means that the path has reached its purpose; a restriction is then applied in full.
        limit: True where the path must not go where the event happens. Such a point is not kept: the path ends at the
            last place before it, between it and the last saved point, where the event does not happen.
    """

    @property
    def goal(self) -> bool: ...

    @property
    def limit(self) -> bool: ...

    def reason(self, point: PathPoint) -> str | None:
        """Evaluate the condition.

        Args:
            point: measured point; everything in it is finite.

        Returns:
            A sentence with the reason why the path ends there, or None where it continues.
        """
        ...


def broken_answer(events: Sequence[Event], point: PathPoint) -> str:
    """Describe which events answer with NaN or infinity instead of a sentence.

    Args:
        events: events of the path.
        point: measured point.

    Returns:
        A phrase; empty where none does.
    """
    # Events of users compute with measured numbers. NaN among the answers is a broken measurement and ends the path;
    # `reason_of` refuses any other answer that is no sentence as a wrong type.
    answers: list[tuple[str, object]] = [(type(event).__name__, event.reason(point)) for event in events]
    return " and ".join(
        f"the reason that {name} gave was {answer}"
        for name, answer in answers
        if isinstance(answer, float) and not math.isfinite(answer)
    )


def reason_of(event: Event, point: PathPoint) -> str | None:
    """Call `Event.reason` and check its result.

    Args:
        event: event of the path.
        point: measured point.

    Returns:
        The reason why the path ends at the point, or None.

    Raises:
        UsageError: where the result is neither a sentence nor None.
    """
    reason = event.reason(point)
    if reason is not None and not isinstance(reason, str):
        raise UsageError(
            f"{type(event).__name__}.reason() returned {described(reason)}; expected a sentence with the reason why "
            "the path ends, or None"
        )
    return reason


@spec("objective_below")
@checked
@dataclass(frozen=True)
class ObjectiveBelow:
    """Goal: the objective on anchors is at most a value.

    Args:
        value: finite number.

    Raises:
        UsageError: for a value that is not finite.
    """

    value: float
    # Class variables are no fields, so they are not part of a spec.
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
    """Condition on a measure, whose values are the probes of a point."""

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
            known = ", ".join(map(repr, point.probes)) or "none"
            raise UsageError(f"an event is about the measure {self.measure!r}; measured are: {known}")
        return point.probes[self.measure]

    def said(self, point: PathPoint, word: str) -> str:
        came = "came" if self.goal else "would have come"
        return f"{self.measure} {came} to {self.of(point):.4g}, {word} {self.value:.4g}, by step {point.step}"


@spec("measure_above")
@checked
@dataclass(frozen=True)
class MeasureAbove(_OfMeasure):
    """Limit or goal: a measure is above a value.

    Args:
        measure: name of the measure among the path's probes.
        value: finite number.
        goal: True ends the path where the condition holds; False makes it a limit, within which the path ends.

    Raises:
        UsageError: for a value that is not finite, and on a path that does not measure it.
    """

    def reason(self, point: PathPoint) -> str | None:
        return self.said(point, "above") if self.of(point) > self.value else None


@spec("measure_below")
@checked
@dataclass(frozen=True)
class MeasureBelow(_OfMeasure):
    """Limit or goal: a measure is below a value.

    Args:
        measure: name of the measure among the path's probes.
        value: finite number.
        goal: True ends the path where the condition holds; False makes it a limit, within which the path ends.

    Raises:
        UsageError: for a value that is not finite, and on a path that does not measure it.
    """

    def reason(self, point: PathPoint) -> str | None:
        return self.said(point, "below") if self.of(point) < self.value else None


@spec("functional_distance_above")
@checked
@dataclass(frozen=True)
class FunctionalDistanceAbove:
    """Limit: the functional distance on held-out inputs is above a value. The path ends within it.

    Args:
        distance: largest functional distance to the start, above 0.
        of: name of one kept quantity whose distance is limited; "" for that of all together.

    Raises:
        UsageError: for a distance out of range, and on a path that has no such quantity.
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
            known = ", ".join(map(repr, point.distances_held_out)) or "none"
            raise UsageError(f"an event is about the distance of {self.of!r}; the kept quantities are: {known}")
        found = point.distances_held_out[self.of] if self.of else point.functional_distance_held_out
        if found > self.distance:
            what = f"distance of {self.of!r}" if self.of else "functional distance"
            return (
                f"the {what} on held-out inputs would have come to {found:.4g}, above {self.distance:.4g}, by step "
                f"{point.step}"
            )
        return None
