"""Commands on results directories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fipray.cli.options import Directory

# Commands import what they need when they run: `fipray --help` must not wait for pandas or torch.


def show(directory: Directory) -> None:
    """Print a summary of a results directory: its base network, paths and ensembles.

    Args:
        directory: results directory.
    """
    from fipray.terminal import print_summary

    print_summary(directory)


def report(
    directories: Annotated[
        list[str],
        typer.Argument(metavar="DIRECTORY...", help="Results directories, or addresses such as s3://bucket/results."),
    ],
    to: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write. A report that exists is replaced.")],
) -> None:
    """Write a report as one HTML file that works offline. Several results directories are shown side by side.

    Args:
        directories: results directories.
        to: file to write.
    """
    from fipray import analysis
    from fipray.terminal import say

    file = analysis.report([analysis.load(directory) for directory in directories], to)
    say(f"{file}: report on {', '.join(directories)}, {file.stat().st_size:,} bytes")


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
