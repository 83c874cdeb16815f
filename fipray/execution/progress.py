"""Progress of a run: jobs and steps done, pace, and estimated time left."""

from __future__ import annotations

from dataclasses import dataclass

from fipray.execution.jobs import Job


@dataclass
class Line:
    """Progress of one running job.

    Args:
        job: the attempt.
        where: name of the worker.
        began: time at which it began, in seconds.
        step: last step that is known.
        since: step and time from which its pace is measured; None before the first report of a later attempt.
        stage: what a job that takes no steps is doing; empty if unknown.
    """

    job: Job
    where: str
    began: float
    step: int
    since: tuple[int, float] | None
    stage: str = ""


class Progress:
    """Counts of a run, fed by a listener.

    Times `now` are readings of a monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self.total = self.done = self.failed = self.num_steps = 0
        self.lines: dict[str, Line] = {}  # running jobs by ID, the longest-running first
        self._began = 0.0
        self._done_before = 0

    def begin(self, total: int, done: int, now: float) -> None:
        """Begin a run.

        Args:
            total: number of jobs.
            done: number of them that earlier runs have committed.
            now: the time.
        """
        self.total, self.done, self._done_before, self._began = total, done, done, now

    def started(self, job: Job, where: str, now: float) -> None:
        """Add a running job.

        Args:
            job: the attempt.
            where: name of the worker.
            now: the time.
        """
        # A later attempt resumes at a step that only its first report tells, so its pace is measured from there.
        since = None if job.attempt > 1 else (job.first_step, now)
        self.lines.pop(job.id, None)  # popped first, so that the new attempt goes to the end
        self.lines[job.id] = Line(job, where, now, job.first_step, since)

    def progressed(self, job: Job, step: int, now: float) -> int:
        """Record the step that a job has reached.

        Args:
            job: the attempt.
            step: last step that is known.
            now: the time.

        Returns:
            Steps since the last record of this attempt; 0 for a job that is not running, and for the first record of a
            later attempt.
        """
        line = self.lines.get(job.id)
        if line is None or step <= line.step:
            return 0
        if line.since is None:
            line.step, line.since = step, (step, now)
            return 0
        more, line.step = step - line.step, step
        self.num_steps += more
        return more

    def staged(self, job: Job, stage: str) -> None:
        """Record what a job is doing.

        Args:
            job: the attempt.
            stage: a few words.
        """
        if line := self.lines.get(job.id):
            line.stage = stage

    def ended(self, job: Job, *, failed: bool = False) -> None:
        """Count a job that has ended.

        Args:
            job: the attempt.
            failed: True if it failed.
        """
        self.lines.pop(job.id, None)
        self.done += 1
        self.failed += failed

    def steps_per_second(self, now: float) -> float:
        """Pace of all workers together, averaged over the run.

        Args:
            now: the time.

        Returns:
            Steps per second.
        """
        # Steps that an attempt resumed from are left out: they cost this run nothing, or are counted already.
        return self.num_steps / max(now - self._began, 1e-9)

    def seconds_left(self, now: float) -> float | None:
        """Estimated time until all jobs are done, at the pace of this run so far.

        Args:
            now: the time.

        Returns:
            Seconds; None before anything is done.
        """
        parts = sum(self._part(line) for line in self.lines.values())
        done = self.done - self._done_before + parts
        return (self.total - self.done - parts) * (now - self._began) / done if done else None

    @staticmethod
    def pace(line: Line, now: float) -> tuple[float, float] | None:
        """Pace of one job, and its estimated time left.

        Args:
            line: progress of the job.
            now: the time.

        Returns:
            Steps per second, and seconds left; None for a job that takes no steps, and before its pace is known.
        """
        last = line.job.last_step
        if last is None or line.since is None or line.step <= line.since[0] or now <= line.since[1]:
            return None
        rate = (line.step - line.since[0]) / (now - line.since[1])
        return rate, (last - line.step) / rate

    @staticmethod
    def _part(line: Line) -> float:
        """Fraction of a running job that is done; 0 where it takes no steps."""
        first, last = line.job.first_step, line.job.last_step
        return (line.step - first) / (last - first) if last and last > first else 0.0
