"""Entry point: all commands, and exit statuses."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import fipray
from fipray.cli import cluster, recipes, results, running
from fipray.cli.options import add_command
from fipray.errors import ClusterLostError, FiprayError, RunError
from fipray.missing import explained

app = typer.Typer(
    no_args_is_help=True,
    # Older releases of typer print local variables in tracebacks, among them addresses with credentials.
    pretty_exceptions_enable=False,
    help="Functionally invariant paths: move a network through weight space without changing its function, many paths "
    "at once, on Ray.",
    epilog="Exit status: 0 for success, 1 if jobs failed, 2 for wrong usage or damaged results, 130 after Ctrl-C, 143 "
    "after SIGTERM.",
)

_RUNNING, _RESULTS = "Run", "Results"
for command, panel, example in (
    (running.run, _RUNNING, "fipray run prune -p module=mymodule:net -p data=mymodule:data --into results/pruned"),
    (running.search, _RUNNING, "fipray search mystudies:search --into results/search --trials 32 --searcher optuna"),
    (recipes.recipes, _RUNNING, "fipray recipes prune"),
    (recipes.new, _RUNNING, "fipray new prune mystudy.py"),
    (cluster.doctor, _RUNNING, "fipray doctor --address auto --into s3://bucket/results"),
    (results.show, _RESULTS, "fipray show results/diverse"),
    (results.report, _RESULTS, "fipray report results/diverse --to report.html"),
    (results.export, _RESULTS, "fipray export results/diverse --name diverse-0 --to diverse-0.safetensors"),
    (results.verify, _RESULTS, "fipray verify results/diverse"),
    (results.compact, _RESULTS, "fipray compact results/diverse"),
):
    add_command(app, command, panel, example)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"fipray {fipray.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Handle the options that come before a command.

    Args:
        version: whether to print the version.
    """


def main() -> None:
    """Run the command of `sys.argv`, and exit with its status."""
    sys.path.insert(0, str(Path.cwd()))  # find studies where the command is run, as `python -m` does
    importlib.invalidate_caches()  # in case a study's file was written since that folder was last listed
    try:
        app()
    # Before RunError, of which it is a subclass.
    except ClusterLostError as error:
        typer.echo(f"fipray: {error}", err=True)
        sys.stderr.flush()
        os._exit(1)  # skips Ray's exit handler, which would wait for the lost control process
    except RunError as error:
        _exit(error, 1)
    except FiprayError as error:
        _exit(error, 2)
    except ImportError as error:
        if missing := explained(error, "this command"):
            _exit(missing, 2)
        raise


def _exit(message: object, status: int) -> NoReturn:
    typer.echo(f"fipray: {message}", err=True)
    raise SystemExit(status)
