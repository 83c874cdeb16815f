"""Terminal output: progress of a run, summaries of results, and findings of the doctor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self

import typer
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fipray.execution.jobs import Job, Tables, last_step_in
from fipray.execution.progress import Line, Progress
from fipray.printable import printable, printable_lines, without_credentials

if TYPE_CHECKING:
    from fipray.cluster.doctor import Finding

SUMMARY_SECONDS = 30.0
_OTHER_LINES = 3  # the total, the count of jobs that do not fit, and the line of the cursor


class TerminalListener:
    """Listener that prints a line for each finished job.

    On a terminal it also shows live lines: one for each running job, as far as they fit, and one for the whole run.
    Elsewhere, as in the log of a batch job, it prints the latter every 30 seconds.

    Args:
        console: console to print to; None for standard error.
        clock: monotonic clock, in seconds.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._clock = clock
        self._progress = Progress()
        self._study = ""
        self._summary_due = float("inf")
        self._live = Live(console=self._console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin(self, study: str, total: int, done: int) -> None:
        now = self._clock()
        self._study = study
        self._progress.begin(total, done, now)
        # On a terminal the last live line shows the summary.
        self._summary_due = float("inf") if self._console.is_terminal else now + SUMMARY_SECONDS
        if done == total:
            self.note(f"all {total} jobs are already done")
        elif done:
            self.note(f"{done} of {total} jobs are already done; {total - done} remain")

    def started(self, job: Job, where: str) -> None:
        self._progress.started(job, where, self._clock())
        self._summarise()

    def progressed(self, job: Job, step: int) -> None:
        self._progress.progressed(job, step, self._clock())
        self._summarise()

    def committed(self, job: Job, tables: Tables) -> None:
        self._progress.progressed(job, last_step_in(tables), self._clock())

    def finished(self, job: Job, sentence: str, seconds: float) -> None:
        self._progress.ended(job)
        self.note(f"{job.label}: {sentence} ({seconds:.1f} s)")
        self._summarise()

    def failed(self, job: Job, reason: str) -> None:
        self._progress.ended(job, failed=True)
        lines = reason.strip().splitlines() or ["no reason given"]
        self.note(f"{job.label} failed: {lines[-1] if len(lines) > 1 else lines[0]}")
        self._summarise()

    def note(self, sentence: str) -> None:
        self._console.print(Text(printable_lines(without_credentials(sentence))))

    def _summarise(self) -> None:
        now = self._clock()
        if now >= self._summary_due:
            self._summary_due = now + SUMMARY_SECONDS
            running = len(self._progress.lines)
            self.note(f"{self._study}: {self._done()}, {running} running{self._throughput(now, '; ')}")

    def _render(self) -> Table:
        now, lines = self._clock(), list(self._progress.lines.values())
        # rich cuts a live table that is higher than the terminal, and the total is its last line.
        fitting = max(self._console.height - _OTHER_LINES, 1)
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for _ in range(3):
            table.add_column(no_wrap=True)
        for line in lines[:fitting]:
            table.add_row(Text(printable(f"  {line.job.label} on {line.where}")), *_columns(line, now))
        if len(lines) > fitting:
            table.add_row(f"  and {len(lines) - fitting} more", "", "", "")
        if self._progress.total:
            bar = ProgressBar(total=self._progress.total, completed=self._progress.done, width=24)
            table.add_row(Text(printable(self._study), style="bold"), bar, self._done(), self._throughput(now, ""))
        return table

    def _done(self) -> str:
        failed = f", {self._progress.failed} failed" if self._progress.failed else ""
        return f"{self._progress.done} of {self._progress.total} done{failed}"

    def _throughput(self, now: float, before: str) -> str:
        rate, left = self._progress.steps_per_second(now), self._progress.seconds_left(now)
        parts = ([f"{rate:.3g} steps/s"] if rate else []) + ([f"{_duration(left)} left"] if left else [])
        return before + ", ".join(parts) if parts else ""


def _columns(line: Line, now: float) -> tuple[ProgressBar | str, str, str]:
    last, pace = line.job.last_step, Progress.pace(line, now)
    if last is None:
        return "", _duration(now - line.began), ""
    bar = ProgressBar(total=last, completed=line.step, width=24)
    rate = f"{pace[0]:.3g} steps/s, {_duration(pace[1])} left" if pace else ""
    return bar, f"step {line.step} of {last}", rate


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def print_summary(directory: str) -> None:
    """Print a summary of a results directory, and the line of Python that loads it as pandas frames.

    Args:
        directory: results directory, or the address of one.
    """
    from fipray import analysis  # pandas loads slowly, so only when the run is over

    analysis.print_summary(analysis.load(directory))
    say(analysis.how_to_load(directory))


def say(text: object) -> None:
    """Print text to standard output.

    Args:
        text: any text; credentials in addresses are removed, and control characters escaped.
    """
    typer.echo(printable_lines(without_credentials(text)))


def print_findings(findings: Iterable[Finding]) -> bool:
    """Print findings of the doctor, each as soon as it is made.

    Args:
        findings: the findings.

    Returns:
        Whether none of them is a problem.
    """
    console = Console(highlight=False, soft_wrap=True)
    styles = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    is_well = True
    for finding in findings:
        is_well = is_well and finding.state != "problem"
        remedy = f". {finding.remedy}" if finding.remedy else ""
        text = without_credentials(f"{finding.about}: {finding.sentence}{remedy}")
        # As Text, because rich would read brackets in names as markup.
        console.print(Text(f"{finding.state:8}", style=styles[finding.state]) + Text(printable_lines(text)))
    return is_well
