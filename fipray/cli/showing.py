"""What `fipray show` prints: a summary once, in one of several formats, or again and again while a study runs.

Nothing here loads torch: a summary must not take longer to print than to read.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import typer

from fipray.errors import UsageError
from fipray.printable import printable_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fipray.analysis import Results


def show_once(directory: str, sort: str, form: str) -> None:
    """Print a summary.

    Args:
        directory: results directory.
        sort: column to sort by; empty for none.
        form: "table", "csv" or "latex".
    """
    from fipray import analysis

    results = analysis.load(directory)
    if form == "csv":
        typer.echo(analysis.as_csv(results, sort=sort), nl=False)
    elif form == "latex":
        typer.echo(analysis.as_latex(results, sort=sort), nl=False)
    else:
        analysis.print_summary(results, sort=sort)
        typer.echo(printable_lines(analysis.how_to_load(directory)))
        done, total = _counts(directory)
        if total is not None and done < total:
            typer.echo(_progress(directory))


def watch(directory: str, sort: str, seconds: float) -> None:
    """Print a summary again and again until all jobs are done.

    On a terminal it is redrawn in place; elsewhere it is printed whenever there are new results.

    Args:
        directory: results directory.
        sort: column to sort by; empty for none.
        seconds: time between two looks.

    Raises:
        UsageError: for a time that is not above 0.
        SystemExit: with status 130 after Ctrl-C.
    """
    from rich.console import Console
    from rich.live import Live

    if not (seconds > 0 and math.isfinite(seconds)):
        raise UsageError(f"--watch is {seconds:g}: give the seconds between two looks, above 0")
    console = Console(highlight=False)
    try:
        if not console.is_terminal:
            _print_changes(directory, sort, seconds)
        else:
            with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis", transient=True) as live:
                while not _is_complete(directory):
                    live.update(_picture(directory, sort, seconds), refresh=True)
                    time.sleep(seconds)
            show_once(directory, sort, "table")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _print_changes(directory: str, sort: str, seconds: float) -> None:
    from fipray.records import Store

    before: set[str] | None = None
    while True:
        # Read before the rest: what is committed in between is printed at the next look.
        is_complete, now = _is_complete(directory), Store.open(directory).committed()
        if now != before:
            show_once(directory, sort, "table")
        if is_complete:
            typer.echo(_progress(directory))
            return
        before = now
        time.sleep(seconds)


def _picture(directory: str, sort: str, seconds: float) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from fipray import analysis

    results: Results = analysis.load(directory)
    last = f"{_progress(directory)}; read again every {seconds:g} s until all are done, or Ctrl-C"
    return Group(analysis.render(results, sort=sort), Text(printable_lines(last), style="bold"))


def _progress(directory: str) -> str:
    done, total = _counts(directory)
    if total is None:
        return f"{done} jobs done"
    rest = "" if done >= total else "; the same command that ran the study runs the others"
    return f"{done} of {total} jobs done{rest}"


def _is_complete(directory: str) -> bool:
    done, total = _counts(directory)
    return total is not None and done >= total


def _counts(directory: str) -> tuple[int, int | None]:
    """Numbers of committed jobs and of all; None where the manifest does not say, as that of a search."""
    from fipray.records import Store, num_jobs

    store = Store.open(directory)
    return len(store.committed()), num_jobs(store.manifest)
