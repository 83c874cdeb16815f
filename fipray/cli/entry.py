"""Entry point: all commands, and exit statuses."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import NoReturn

import typer

from fipray.cli import cluster, recipes, results, running
from fipray.cli.options import add_command
from fipray.errors import ClusterLostError, FiprayError, RunError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    # Older releases of typer print local variables in tracebacks, among them addresses with credentials.
    pretty_exceptions_enable=False,
    help="Functionally invariant paths: move a network through weight space without changing its function, many paths "
    "at once, on Ray.",
    epilog="Exit status: 0 for success, 1 if jobs failed, 2 for wrong usage or damaged results, 130 after Ctrl-C, 143 "
    "after SIGTERM.",
)
for command in (
    running.run,
    running.search,
    recipes.recipes,
    recipes.new,
    results.show,
    results.verify,
    results.compact,
    results.export,
):
    add_command(app, command)
add_command(app, cluster.doctor)


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


def _exit(message: object, status: int) -> NoReturn:
    typer.echo(f"fipray: {message}", err=True)
    raise SystemExit(status)
