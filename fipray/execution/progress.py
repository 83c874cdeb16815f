"""Progress of a run: jobs and steps done, pace, and estimated time left.

The estimate is simple on purpose. A path that has not begun takes its steps at the pace of the paths that walk now, and
its start and its end are measured for as long as the last point was. A job without steps takes as long as those of its
kind have taken on average. The sum is shared among as many workers as have been busy at once, and the run lasts at
least as long as its longest job.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from fipray.execution.jobs import Job, JobSpec
from fipray.execution.line import Line
from fipray.study.evaluation import AttackSpec


@dataclass(frozen=True)
class Left:
    """Estimated time left.

    Args:
        seconds: the estimate.
        is_least: whether jobs are left out, because none of their kind has ended yet.
    """

    seconds: float
    is_least: bool = False


class Progress:
    """Counts of a run, fed by a listener.

    Times `now` are readings of a monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self.total = self.done = self.failed = self.num_steps = 0
        self.lines: dict[str, Line] = {}  # running jobs by ID, the longest-running first
        self._begun: set[str] = set()  # IDs of jobs that are no longer waiting
        self._waiting: Counter[tuple[str, int | None]] = Counter()  # jobs by their kind and number of steps
        self._durations: defaultdict[str, list[float]] = defaultdict(list)  # of jobs without steps, by kind
        self._most_running = 0
        self._last_pace = 0.0  # of the path that ended last
        self._point_seconds = 0.0  # that the measurement of the last point took

    def begin(self, waiting: Sequence[JobSpec], done: int) -> None:
        """Begin a run.

        Args:
            waiting: the jobs that remain.
            done: number of jobs that earlier runs have committed.
        """
        self.total, self.done = len(waiting) + done, done
        self._waiting = Counter((_kind(spec), _num_steps(spec)) for spec in waiting)

    def started(self, job: Job, where: str, now: float) -> None:
        """Add a running job.

        Args:
            job: the attempt.
            where: name of the worker.
            now: the time.
        """
        self._no_longer_waiting(job)
        self.lines.pop(job.id, None)  # popped first, so that the new attempt goes to the end
        self.lines[job.id] = Line(job, where, now, job.first_step)
        self._most_running = max(self._most_running, len(self.lines))

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
        if line is None or step < line.step:
            return 0
        more = step - line.step
        # A later attempt resumes at a step that only its first report tells: those before it cost this run nothing, or
        # are counted already.
        if job.attempt > 1 and not line.marks:
            more = 0
        if step > line.step and line.aside_seconds:  # what came right before a step is the measurement of a point
            self._point_seconds, line.aside_seconds = line.aside_seconds, 0.0
        is_first = not line.marks and step > line.step
        line.step = step
        if is_first:
            line.walk(now)
        elif line.marks:
            line.mark(now)
        self.num_steps += more
        return more

    def staged(self, job: Job, stage: str, now: float) -> None:
        """Record what a job is doing besides steps.

        Args:
            job: the attempt.
            stage: a few words; empty for a path that walks.
            now: the time.
        """
        line = self.lines.get(job.id)
        if line is None:
            return
        line.enter(stage, now)
        # It is not known at which step a later attempt begins.
        if not stage and job.attempt == 1 and not line.marks:
            line.walk(now)

    def ended(self, job: Job, now: float, *, failed: bool = False) -> None:
        """Count a job that has ended.

        Args:
            job: the attempt.
            now: the time.
            failed: True if it failed.
        """
        self._no_longer_waiting(job)
        if line := self.lines.pop(job.id, None):
            if job.last_step is None:
                if not failed:
                    self._durations[_kind(job.spec)].append(now - line.began)
            else:
                self._last_pace = line.rate(now) or self._last_pace
        self.done += 1
        self.failed += failed

    def _no_longer_waiting(self, job: Job) -> None:
        if job.id in self._begun:
            return
        self._begun.add(job.id)
        # Trials draw their values later, so one may have another number of steps than was told.
        what = next((key for key in (_key(job), *self._waiting) if self._waiting[key] > 0), None)
        if what is not None:
            self._waiting[what] -= 1

    def steps_per_second(self, now: float) -> float:
        """Pace of all paths that walk now together.

        Args:
            now: the time.

        Returns:
            Steps per second.
        """
        return sum(pace[0] for line in self.lines.values() if (pace := self.pace(line, now)))

    def seconds_left(self, now: float) -> Left | None:
        """Estimate the time until all jobs are done.

        Args:
            now: the time.

        Returns:
            The estimate; None before anything is known of the pace.
        """
        paces = {id: pace for id, line in self.lines.items() if (pace := self.pace(line, now))}
        # Times add up where paces do not: the mean is that of seconds per step.
        usual = len(paces) / sum(1 / rate for rate, _ in paces.values()) if paces else self._last_pace
        each: list[float | None] = []  # of the running jobs, then of those that wait; None if unknown
        for id, line in self.lines.items():
            if id in paces:
                each.append(paces[id][1])
            elif line.job.last_step is not None:
                num_left = line.job.last_step - line.step
                each.append(num_left / usual + self._point_left(line, now) if usual else None)
            else:
                whole = self._usual_duration(_kind(line.job.spec))
                each.append(None if whole is None else max(whole - (now - line.began), 0.0))
        for (kind, num_steps), count in self._waiting.items():
            walked = (num_steps or 0) / usual + 2 * self._point_seconds if usual else None
            each += [self._usual_duration(kind) if num_steps is None else walked] * count
        known = [seconds for seconds in each if seconds is not None]
        if not known and each:
            return None
        shared = sum(known) / max(self._most_running, 1)
        return Left(max(shared, *known) if known else 0.0, is_least=len(known) < len(each))

    def _usual_duration(self, kind: str) -> float | None:
        """Mean duration of the jobs of a kind that have ended; None before the first."""
        durations = self._durations.get(kind)
        return sum(durations) / len(durations) if durations else None

    def _point_left(self, line: Line, now: float) -> float:
        """Seconds that the measurement of a path's end still takes, if it takes as long as that of the last point."""
        # A step is reported after its point has been measured.
        is_at_end = line.job.last_step is not None and line.step >= line.job.last_step - 1
        spent = now - line.aside_since if is_at_end and line.aside_since is not None else 0.0
        return max(self._point_seconds - spent, 0.0)

    def pace(self, line: Line, now: float) -> tuple[float, float] | None:
        """Pace of one job, and its estimated time left.

        Args:
            line: progress of the job.
            now: the time.

        Returns:
            Steps per second, and seconds left; None for a job that takes no steps, and before its pace is known.
        """
        last = line.job.last_step
        rate = line.rate(now)
        if last is None or rate is None:
            return None
        return rate, (last - line.step) * (1 / rate + line.aside_per_step) + self._point_left(line, now)


def _kind(spec: JobSpec) -> str:
    """Name of the jobs that take about as long."""
    of = type(spec).__name__
    return f"{of} {spec.attack.name}" if isinstance(spec, AttackSpec) else of


def _num_steps(spec: JobSpec) -> int | None:
    return None if spec.last_step is None else spec.last_step - spec.first_step


def _key(job: Job) -> tuple[str, int | None]:
    return _kind(job.spec), _num_steps(job.spec)
