"""Stopping events, and the outcome: why a path ended, as a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from fipray.border import checked, described
from fipray.errors import UsageError
from fipray.paths.path import PathPoint


@dataclass(frozen=True)
class Outcome:
    """`kind` is one of "completed", "stopped" (by an event), "stuck" (the radius shrank to nothing), "not finite",
    "out of time" (by max_seconds), "given up" (by a search), and "paused" for a path that was asked to wait and goes on
    when it is resumed."""

    kind: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def out_of_time(seconds: float, max_seconds: float, step: int) -> Outcome:
    """The outcome of a path that has walked for `seconds`, by `step`, of at most `max_seconds`."""
    return Outcome("out of time", f"stopped: {seconds:.3g} s were walked of at most {max_seconds:g} at step {step}")


def check_max_seconds(max_seconds: float | None) -> None:
    """Raises UsageError for a time limit that is not above 0."""
    if max_seconds is not None and not max_seconds > 0:
        raise UsageError(f"max_seconds is above 0, or None for no limit; {max_seconds} was given")


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
        """A sentence that says why the path ends at `point`, or None."""
        ...


def reason_of(event: Event, point: PathPoint) -> str | None:
    """Why the path ends at `point`, or None. Raises UsageError where the event's `reason` gives anything else."""
    reason = event.reason(point)
    if reason is not None and not isinstance(reason, str):
        raise UsageError(
            f"{type(event).__name__}.reason() returned {described(reason)}; expected a sentence that says why the path "
            "ends, or None"
        )
    return reason


@checked
@dataclass(frozen=True)
class ObjectiveBelow:
    """The objective has come to `value` or below."""

    value: float
    goal: ClassVar[bool] = True
    limit: ClassVar[bool] = False

    def reason(self, point: PathPoint) -> str | None:
        if point.objective_value <= self.value:
            return f"the objective came to {point.objective_value:.4g}, at most {self.value:.4g}, at step {point.step}"
        return None


@checked
@dataclass(frozen=True)
class FunctionalDistanceAbove:
    """The functional distance on held-out inputs would pass `distance` > 0: the path ends before, within it."""

    distance: float
    goal: ClassVar[bool] = False
    limit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.distance > 0:
            raise UsageError(f"a functional distance to stop at is above 0; {self.distance} was given")

    def reason(self, point: PathPoint) -> str | None:
        if point.functional_distance_held_out > self.distance:
            return (
                f"the functional distance on held-out inputs would have come to "
                f"{point.functional_distance_held_out:.4g}, above {self.distance:.4g}, by step {point.step}"
            )
        return None
