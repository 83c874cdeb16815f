"""What a run and its results look like on a terminal, and as plain lines where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from fipray.study.work import Work


class TerminalWatch:
    """A progress bar and a line for each piece of work that ended; on a terminal also those that are under way."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all: TaskID | None = None
        self._lines: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, study: str, total: int, done: int) -> None:
        self._all = self._progress.add_task(f"[bold]{study}[/]", total=total, completed=done)
        if done == total:
            self.note(f"all {total} pieces of work are there already")
        elif done:
            self.note(f"{done} of {total} pieces of work are there already; {total - done} are missing")

    def started(self, work: Work, where: str) -> None:
        self._end(work)
        self._lines[work.id] = self._progress.add_task(f"  {work.label} on {where}", total=None)

    def walked(self, work: Work, step: int) -> None:
        if work.last_step and work.id in self._lines:
            self._progress.update(self._lines[work.id], completed=step, total=work.last_step)

    def finished(self, work: Work, sentence: str, seconds: float) -> None:
        self._end(work)
        self._advance()
        self.note(f"{work.label}: {sentence} ({seconds:.1f} s)")

    def failed(self, work: Work, reason: str) -> None:
        self._end(work)
        self._advance()
        lines = reason.strip().splitlines() or ["no reason was given"]
        self.note(f"{work.label} failed: {lines[-1] if len(lines) > 1 else lines[0]}")

    def note(self, sentence: str) -> None:
        self._console.print(sentence, markup=False)

    def _advance(self) -> None:
        if self._all is not None:
            self._progress.advance(self._all)

    def _end(self, work: Work) -> None:
        if work.id in self._lines:
            self._progress.remove_task(self._lines.pop(work.id))


def print_summary(directory: Path) -> None:
    """The summary of a results directory, and the line that opens it in pandas."""
    from fipray import analysis  # after the run: pandas takes its time to load

    analysis.print_summary(analysis.load(directory))
    typer.echo(f'In pandas: from fipray import analysis; results = analysis.load("{directory}")')
