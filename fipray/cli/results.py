"""Commands on results directories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fipray.cli.options import Directory
from fipray.errors import UsageError

# Commands import what they need when they run: `fipray --help` must not wait for pandas or torch.


@dataclass(frozen=True)
class FormOptions:
    """Options of the form in which a network is exported.

    Args:
        like: reference to a function that makes the study's module; None for what the manifest names.
        layout: "hf" or "bundle" for a directory; None to choose by the module.
        packed: whether to pack matrices in 2:4 format.
    """

    like: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Function that returns the study's module, or the study.",
            show_default="the function that made the study",
        ),
    ] = None
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="hf|bundle",
            help="Directory as of Hugging Face, or with a loader that needs torch alone and tables as CSV.",
            show_default="hf for modules with save_pretrained",
        ),
    ] = None
    packed: Annotated[
        bool,
        typer.Option("--packed", help="Write 2:4 matrices as values and 2-bit positions (state files and bundles)."),
    ] = False


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
    name: Annotated[
        str,
        typer.Option(
            "--name",
            "--path",
            help="Name of the network: base, a path, a variant, an ensemble, or a recipe's result such as pruned.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            help="File to write: .safetensors, .pt (for torch.load) or .onnx; any name with a slash at its end is a "
            "directory with a model card.",
        ),
    ],
    sparsity: Annotated[
        float | None,
        typer.Option(help="Sparsity of a variant that the path was asked for on its way.", show_default="none"),
    ] = None,
    slim: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Remove channels that are zero, and write the smaller dense module; its state is loaded with "
            "fipray.networks.fitted. The function, called without arguments, creates the study's module.",
        ),
    ] = None,
    *,
    forms: FormOptions,
) -> None:
    """Write a network: as a state_dict, as ONNX, or as a directory with a model card for people and model hubs.

    ONNX models and directories need the study's module. It comes from --like, or from the function that made the study.

    Args:
        directory: results directory.
        name: name of the network.
        to: file or directory to write.
        sparsity: sparsity of a variant; None for the network itself.
        slim: reference to a function that creates the module; None keeps all channels.
        forms: further options.
    """
    from fipray import export as exporting
    from fipray.execution.stages import staged
    from fipray.terminal import TerminalListener, say

    options = exporting.Options(forms.like, packed=forms.packed, layout=forms.layout)
    with TerminalListener() as terminal, staged("fipray.export", terminal.doing):
        done = exporting.export(directory, name, sparsity, to, slim, options)
    say(done)
