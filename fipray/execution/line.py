"""Progress of one running job: its step, its pace, and what it is doing besides steps."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from fipray.execution.jobs import Job

WINDOW_SECONDS = 120.0  # a pace is that of the last steps, so that a machine that has become slower shows
_MARK_SECONDS = 2.0  # between two marks of a window


@dataclass
class Line:
    """Progress of one running job.

    A path walks, or does something aside, such as measuring a point. Its pace is that of its walking time alone.

    Args:
        job: the attempt.
        where: name of the worker.
        began: time at which it began, in seconds.
        step: last step that is known.
        stage: what it is doing aside; empty while it walks, and if unknown.
        first: step at which it began to walk in this attempt.
        marks: steps and walking times since the beginning of the window in which its pace is measured; empty until it
            walks, and before the first report of a later attempt.
        aside_since: time at which it began what it is doing aside; None while it walks.
        aside_seconds: duration of what it did last aside, until a step follows.
        aside_total: duration of all that it did aside since it began to walk.
    """

    job: Job
    where: str
    began: float
    step: int
    stage: str = ""
    first: int = 0
    marks: deque[tuple[int, float]] = field(default_factory=deque)
    aside_since: float | None = None
    aside_seconds: float = 0.0
    aside_total: float = 0.0

    def enter(self, stage: str, now: float) -> None:
        """Begin to do something, or to walk.

        Args:
            stage: what is done aside; empty for steps.
            now: the time.
        """
        # What comes before a colon is one thing with several parts, such as the quantities of a point.
        is_other = stage.partition(":")[0] != self.stage.partition(":")[0]
        self.stage = stage
        if self.aside_since is not None and is_other:
            self.aside_seconds = now - self.aside_since
            self.aside_total += self.aside_seconds
            self.aside_since = None
        if stage and self.aside_since is None:
            self.aside_since = now

    def walk(self, now: float) -> None:
        """Begin to walk: what came before is no part of the pace.

        Args:
            now: the time.
        """
        self.first, self.aside_total = self.step, 0.0
        self.marks = deque([(self.step, self.walked(now))])

    def walked(self, now: float) -> float:
        """Count walking time.

        Args:
            now: the time.

        Returns:
            Seconds, counted from any moment.
        """
        return (now if self.aside_since is None else self.aside_since) - self.aside_total

    def mark(self, now: float) -> None:
        """Keep the present step, if the last one was kept a while ago, and forget what is before the window.

        Args:
            now: the time.
        """
        walked = self.walked(now)
        if walked - self.marks[-1][1] >= _MARK_SECONDS:
            self.marks.append((self.step, walked))
        # The first step may take long, such as to compile the network, so it counts only until others have been seen.
        while len(self.marks) > 1 and (
            self.marks[1][1] <= walked - WINDOW_SECONDS
            or (len(self.marks) > 2 and self.marks[0][0] == self.job.first_step)
        ):
            self.marks.popleft()

    def rate(self, now: float) -> float | None:
        """Pace of the last steps.

        Args:
            now: the time.

        Returns:
            Steps per second of walking time; None before it is known.
        """
        if not self.marks or self.step <= self.marks[0][0] or self.walked(now) <= self.marks[0][1]:
            return None
        return (self.step - self.marks[0][0]) / (self.walked(now) - self.marks[0][1])

    @property
    def aside_per_step(self) -> float:
        """Seconds that are spent aside for each step, such as on points on the way."""
        return self.aside_total / (self.step - self.first) if self.step > self.first else 0.0
