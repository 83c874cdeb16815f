"""How far a run is, how fast it goes, and when it will be over; in seconds of a clock that is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from fipray.execution.jobs import Job


@dataclass
class Line:
    """One piece of work that is under way. `since`: the step, and its time, from which its pace is measured."""

    job: Job
    where: str
    began: float
    step: int
    since: tuple[int, float] | None


class Progress:
    """Counts what a watch is told; `now` is the reading of a clock that only goes forward, in seconds."""

    def __init__(self) -> None:
        self.total = self.done = self.failed = self.num_steps = 0
        self.lines: dict[str, Line] = {}  # work that is under way, by id, the longest first
        self._began = 0.0
        self._done_before = 0

    def begin(self, total: int, done: int, now: float) -> None:
        self.total, self.done, self._done_before, self._began = total, done, done, now

    def started(self, job: Job, where: str, now: float) -> None:
        # An attempt that is not the first goes on where an earlier one came to, which only its first word tells.
        since = None if job.attempt > 1 else (job.first_step, now)
        self.lines.pop(job.id, None)
        self.lines[job.id] = Line(job, where, now, job.first_step, since)

    def walked(self, job: Job, step: int, now: float) -> int:
        """Returns how many steps that is more than was known; 0 too where the work is not under way."""
        line = self.lines.get(job.id)
        if line is None or step <= line.step:
            return 0
        if line.since is None:
            line.step, line.since = step, (step, now)
            return 0
        more, line.step = step - line.step, step
        self.num_steps += more
        return more

    def ended(self, job: Job, *, failed: bool = False) -> None:
        self.lines.pop(job.id, None)
        self.done += 1
        self.failed += failed

    def steps_per_second(self, now: float) -> float:
        """Of all workers together, over the whole run."""
        return self.num_steps / max(now - self._began, 1e-9)

    def seconds_left(self, now: float) -> float | None:
        """Until all is done, at the pace of this run so far; None before there is one."""
        parts = sum(self._part(line) for line in self.lines.values())
        made = self.done - self._done_before + parts
        return (self.total - self.done - parts) * (now - self._began) / made if made else None

    @staticmethod
    def pace(line: Line, now: float) -> tuple[float, float] | None:
        """Steps per second of a path, and the seconds that it has still to go; None before its pace is known."""
        last = line.job.last_step
        if last is None or line.since is None or line.step <= line.since[0] or now <= line.since[1]:
            return None
        rate = (line.step - line.since[0]) / (now - line.since[1])
        return rate, (last - line.step) / rate

    @staticmethod
    def _part(line: Line) -> float:
        first, last = line.job.first_step, line.job.last_step
        return (line.step - first) / (last - first) if last and last > first else 0.0
