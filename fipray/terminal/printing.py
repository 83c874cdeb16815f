"""Summaries of results, and findings of the doctor, on standard output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fipray.printable import printable, printable_lines, without_credentials

if TYPE_CHECKING:
    from fipray.cluster.doctor import Finding


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


def print_rows(rows: Iterable[Sequence[str]]) -> None:
    """Print rows of text in aligned columns, the last of which is wrapped.

    Args:
        rows: texts of each row; all rows have as many.
    """
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*(Text(printable(text)) for text in row))
    Console(highlight=False).print(table)


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
