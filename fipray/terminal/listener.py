"""Progress of a run on standard error: live lines on a terminal, and a line from time to time elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fipray.execution.jobs import Job, JobSpec, Tables, last_step_in
from fipray.execution.line import Line
from fipray.execution.progress import Progress
from fipray.printable import printable, printable_lines, without_credentials

FIRST_SUMMARY_SECONDS, SUMMARY_SECONDS = 5.0, 15.0  # the time between two lines of a log grows to the latter
_TICK_SECONDS = 1.0
_LEAST_WAIT_SECONDS = 2.0  # that is worth its number: stages of a short path change with each step
_MOST_LISTED = 3  # running jobs in the line of a log
_OTHER_LINES = 3  # the total, the count of jobs that do not fit, and the line of the cursor


class TerminalListener:
    """Listener that prints a line for each finished job.

    On a terminal it also shows live lines: one for each running job, as far as they fit, and one for the whole run.
    Elsewhere, as in the log of a batch job, it prints a line after 5 seconds, then after 10, and then every 15 seconds,
    with the run and the jobs that have run longest. Before the first job both say what the run waits for.

    Args:
        console: console to print to; None for standard error.
        clock: monotonic clock, in seconds.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._clock = clock
        self._progress = Progress()
        self._study = ""
        self._doing, self._doing_since = "", clock()
        self._has_started = False  # any job: until then the notes say what the run is doing
        self._interval = FIRST_SUMMARY_SECONDS
        self._summary_due = clock() + self._interval
        # Events come from the run's own thread and the clock's ticks from another one.
        self._lock, self._is_over = threading.RLock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        else:
            self._ticker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._live.stop()

    def _tick(self) -> None:
        """Print the line of a log when it is due, also while nothing happens in the run."""
        while not self._is_over.wait(_TICK_SECONDS):
            self._summarise()

    def doing(self, sentence: str) -> None:
        with self._lock:
            self._doing, self._doing_since = sentence, self._clock()

    def begin(self, study: str, waiting: Sequence[JobSpec], done: int) -> None:
        self._study, total = study, len(waiting) + done
        self._progress.begin(waiting, done)
        self.doing("preparing")
        if done == total:
            self.note(f"all {total} jobs are already done")
        elif done:
            self.note(f"{done} of {total} jobs are already done; {total - done} remain")

    def started(self, job: Job, where: str) -> None:
        if not self._has_started:
            self._has_started = True
            self.doing("waiting for the next job")
        self._progress.started(job, where, self._clock())
        self._summarise()

    def progressed(self, job: Job, step: int) -> None:
        self._progress.progressed(job, step, self._clock())
        self._summarise()

    def stage(self, job: Job, stage: str) -> None:
        self._progress.staged(job, stage, self._clock())
        self._summarise()

    def committed(self, job: Job, tables: Tables) -> None:
        self._progress.progressed(job, last_step_in(tables), self._clock())

    def finished(self, job: Job, sentence: str, seconds: float) -> None:
        self._progress.ended(job, self._clock())
        self._print(f"{job.label}: {sentence} ({seconds:.1f} s)")
        self._summarise()

    def failed(self, job: Job, reason: str) -> None:
        self._progress.ended(job, self._clock(), failed=True)
        lines = reason.strip().splitlines() or ["no reason given"]
        self._print(f"{job.label} failed: {lines[-1] if len(lines) > 1 else lines[0]}")
        self._summarise()

    def note(self, sentence: str) -> None:
        if not self._has_started:
            self.doing(sentence)
        self._print(sentence)

    def _print(self, sentence: str) -> None:
        self._console.print(Text(printable_lines(without_credentials(sentence))))

    def _summarise(self) -> None:
        with self._lock:
            now = self._clock()
            if self._console.is_terminal or now < self._summary_due:
                return  # a terminal has live lines
            self._interval = min(2 * self._interval, SUMMARY_SECONDS)
            self._summary_due = now + self._interval
            self._print(self._summary(now))

    def _summary(self, now: float) -> str:
        lines = list(self._progress.lines.values())
        before = f"{self._study}: {self._done()}, {len(lines)} running" if self._progress.total else ""
        if not lines:
            return f"{before}; {self._waited(now)}" if before else self._waited(now)
        listed = "; ".join(self._text(line, now) for line in lines[:_MOST_LISTED])
        return f"{before}{self._throughput(now, '; ')}; {listed}"

    def _waited(self, now: float) -> str:
        doing, seconds = self._doing or "preparing", now - self._doing_since
        return doing if seconds < _LEAST_WAIT_SECONDS else f"{doing}, since {_duration(seconds)}"

    def _render(self) -> Table:
        now, lines = self._clock(), list(self._progress.lines.values())
        # rich cuts a live table that is higher than the terminal, and the total is its last line.
        fitting = max(self._console.height - _OTHER_LINES, 1)
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for _ in range(3):
            table.add_column(no_wrap=True)
        for line in lines[:fitting]:
            table.add_row(Text(printable(f"  {line.job.label} on {line.where}")), *self._columns(line, now))
        if len(lines) > fitting:
            table.add_row(f"  and {len(lines) - fitting} more", "", "", "")
        if not lines and self._doing and self._progress.done < (self._progress.total or 1):
            table.add_row(Text(printable(f"  {self._waited(now)}"), style="dim"), "", "", "")
        if self._progress.total:
            bar = ProgressBar(total=self._progress.total, completed=self._progress.done, width=24)
            table.add_row(Text(printable(self._study), style="bold"), bar, self._done(), self._throughput(now, ""))
        return table

    def _done(self) -> str:
        failed = f", {self._progress.failed} failed" if self._progress.failed else ""
        return f"{self._progress.done} of {self._progress.total} done{failed}"

    def _throughput(self, now: float, before: str) -> str:
        rate, left = self._progress.steps_per_second(now), self._progress.seconds_left(now)
        parts = [f"{rate:.3g} steps/s"] if rate else []
        # None where the running jobs take longer than others of their kind did: how much longer is not known.
        if left and round(left.seconds) > 0:
            parts.append(f"{'at least ' if left.is_least else ''}{_duration(left.seconds)} left")
        return before + ", ".join(parts) if parts else ""

    def _columns(self, line: Line, now: float) -> tuple[ProgressBar | str, str, str]:
        last, pace = line.job.last_step, self._progress.pace(line, now)
        if last is None:
            return "", printable(line.stage), _duration(now - line.began)
        bar = ProgressBar(total=last, completed=line.step, width=24)
        rate = f"{pace[0]:.3g} steps/s, {_duration(pace[1])} left" if pace else ""
        step = f"step {line.step} of {last}"
        return bar, f"{step}, {printable(line.stage)}" if line.stage else step, rate

    def _text(self, line: Line, now: float) -> str:
        """Progress of a job in the line of a log."""
        _, step, rate = self._columns(line, now)
        return ", ".join(part for part in (line.job.label, step, rate) if part)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
