"""Outcome of a path: the reason why it ended."""

from __future__ import annotations

from dataclasses import dataclass

NOT_FINITE = "not finite"


@dataclass(frozen=True)
class Outcome:
    """Reason why a path ended, with the change of its objective.

    Args:
        kind: one of "completed" (all steps), "stopped" (by an event), "stuck" (the radius shrank to nothing), "not
            finite" (a step or a measurement was NaN or infinite; the path ends at its last finite point), "out of time"
            (`max_seconds`), "given up" (by a search), and "paused" (at `until`; resuming it continues the path). A
            `Connection` has "connected", "not connected" or "not finite".
        sentence: the reason in words, with the objective at the start and at the end, both on the first 1000 anchors:
            "all 100 steps were walked; objective 0.470 -> 0.500: worse".
    """

    kind: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def out_of_time(seconds: float, max_seconds: float, step: int) -> Outcome:
    """Outcome of a path that reached its time limit.

    Args:
        seconds: wall-clock time since the path began.
        max_seconds: limit on it.
        step: last step that was finished.

    Returns:
        An outcome of kind "out of time".
    """
    return Outcome("out of time", f"stopped: {seconds:.3g} s were walked of at most {max_seconds:g} at step {step}")
