"""Commands on results directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fipray.cli.options import Directory
from fipray.errors import UsageError

# Commands import what they need when they run: `fipray --help` must not wait for pandas or torch.


def show(
    directory: Directory,
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Sort by a column, such as clean_accuracy; -COLUMN begins with the greatest value.",
            show_default="by kind and name",
        ),
    ] = "",
    csv: Annotated[bool, typer.Option("--csv", help="Print all columns as comma-separated values.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print a table for LaTeX (booktabs).")] = False,
    watch: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Read again every so many seconds, until all jobs are done or Ctrl-C.",
            show_default="once",
        ),
    ] = None,
) -> None:
    """Print a summary of a results directory: its base network, paths and ensembles.

    On a terminal, columns that do not fit are left out. Accuracies have 95 % intervals if there is room.

    Args:
        directory: results directory.
        sort: column to sort by.
        csv: whether to print comma-separated values.
        latex: whether to print a table for LaTeX.
        watch: seconds between two looks; None for a single one.
    """
    from fipray.cli import showing

    if csv + latex + (watch is not None) > 1:
        raise UsageError("--csv, --latex and --watch exclude each other: give one of them")
    if watch is not None:
        showing.watch(directory, sort, watch)
    else:
        showing.show_once(directory, sort, "csv" if csv else "latex" if latex else "table")


def verify(directory: Directory) -> None:
    """Verify the checksums of all committed files. The exit status is 2 if one is damaged.

    Args:
        directory: results directory.
    """
    from fipray.records import Store

    store = Store.open(directory)
    store.verify()
    typer.echo(f"{len(store.committed())} jobs verified, no file is damaged")


def compact(directory: Directory) -> None:
    """Merge the many small table files of a long run into few. Safe during a run and while others read.

    Args:
        directory: results directory.
    """
    from fipray import records

    before, after = records.compact(records.Store.open(directory))
    typer.echo(f"{before} commits merged into {after}")


def export(
    directory: Directory,
    path: Annotated[str, typer.Option(help="Name or path_id of the path.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="File to write: .safetensors, or .pt for torch.load.")],
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Sparsity of a variant that the path was asked for on its way.", show_default="the path's end"
        ),
    ] = None,
    slim: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Remove channels that are zero, and write the state of the smaller dense module, to be loaded with "
            "fipray.networks.fitted. The function, called without arguments, creates the study's module.",
        ),
    ] = None,
) -> None:
    """Write the weights of a path's end, or of a sparse variant, as the state_dict of the study's module.

    Args:
        directory: results directory.
        path: name or path_id.
        to: file to write.
        sparsity: sparsity of a variant; None for the path's end.
        slim: reference to a function that creates the module; None keeps all channels.
    """
    from fipray import export as exporting
    from fipray.terminal import say

    say(exporting.export(directory, path, sparsity, to, slim))
