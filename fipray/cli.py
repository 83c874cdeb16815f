"""The command line: a few verbs, each a few lines over the library."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import fipray
from fipray.errors import FiprayError, RunError

if TYPE_CHECKING:
    from fipray.study import Runner

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Functionally invariant paths through the weight space of a network, many at once, on Ray.",
)

Directory = Annotated[Path, typer.Argument(help="A results directory.")]


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="The study, as module:function.")],
    into: Annotated[Path, typer.Option(help="The results directory: new, or one that this command began.")],
    parameter: Annotated[
        list[str], typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A knob of the study.")
    ] = [],  # noqa: B006
    runner: Annotated[str, typer.Option(help="'ray', or 'local': in this process, one after the other.")] = "ray",
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; 'auto' for the one on this machine.")] = None,
    workers: Annotated[int | None, typer.Option(help="Actors; by default as many as fit.")] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs of each, or a fraction; by default 1 where there are.")
    ] = None,
    threads_per_worker: Annotated[int, typer.Option(help="CPU cores of each.")] = 1,
) -> None:
    """Trace the paths of a study and judge them. The same command run again does only what is missing."""
    chosen = _runner(runner, address, workers, gpus_per_worker, threads_per_worker)
    from fipray.study import reference  # loads torch: after what the cluster has was asked
    from fipray.terminal import TerminalWatch, print_summary

    function = reference.find(study)
    values = reference.parse(function, parameter)
    try:
        made = reference.build(function, values, fipray.Study)
        with TerminalWatch() as watch:
            chosen.run(made, into, watch)
    except KeyboardInterrupt:  # here, because typer would end without a word
        _end("interrupted; what is done is kept, and the same command goes on from there", 130)
    print_summary(into)


@app.command()
def search(
    search: Annotated[str, typer.Argument(help="The search, as module:function.")],
    into: Annotated[Path, typer.Option(help="The results directory: new, or one that this command began.")],
    trials: Annotated[int | None, typer.Option(help="Values that are tried; by default as many as it says.")] = None,
    searcher: Annotated[str | None, typer.Option(help="'random', 'optuna' or 'grid'; by default as it says.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Who gives trials up: 'asha', 'median' or 'none'; by default as it says.")
    ] = None,
    parameter: Annotated[
        list[str], typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A knob of the search.")
    ] = [],  # noqa: B006
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; 'auto' for the one on this machine.")] = None,
    workers: Annotated[int | None, typer.Option(help="Actors; by default as many as fit.")] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs of each, or a fraction; by default 1 where there are.")
    ] = None,
    threads_per_worker: Annotated[int, typer.Option(help="CPU cores of each.")] = 1,
) -> None:
    """Search the fields of a path's spec with Ray Tune. The same command run again does only what is missing."""
    runner = fipray.RayRunner(address, workers, gpus_per_worker, threads_per_worker)
    runner.preflight()
    from fipray.study import reference
    from fipray.terminal import TerminalWatch, print_summary

    function = reference.find(search)
    values = reference.parse(function, parameter)
    try:
        made = reference.build(function, values, fipray.Search)
        made = replace(
            made,
            num_trials=made.num_trials if trials is None else trials,
            searcher=searcher or made.searcher,
            scheduler=scheduler or made.scheduler,
        )
        with TerminalWatch() as watch:
            fipray.search(made, into, runner, watch)
    except KeyboardInterrupt:
        _end("interrupted; what is done is kept, and the same command goes on from there", 130)
    print_summary(into)


@app.command()
def show(directory: Directory) -> None:
    """Print what a results directory holds: base, paths and ensembles, a line each."""
    from fipray.terminal import print_summary

    print_summary(directory)


def _runner(name: str, address: str | None, workers: int | None, gpus: float | None, threads: int) -> Runner:
    if name == "local":
        if (address, workers, gpus) != (None, None, None):
            raise fipray.UsageError(
                "--runner local works in this process: it takes no --address, --workers or --gpus-per-worker"
            )
        return fipray.LocalRunner(threads=threads)
    if name != "ray":
        raise fipray.UsageError(f"there is no runner {name!r}; there are: ray, local")
    runner = fipray.RayRunner(address, workers, gpus, threads)
    runner.preflight()
    return runner


def main() -> None:
    """Entry point. Ends with status 2 for wrong use, 1 for work that failed, 130 after Ctrl-C."""
    sys.path.insert(0, str(Path.cwd()))  # studies are found where the command is run, as with `python -m`
    importlib.invalidate_caches()
    try:
        app()
    except RunError as error:
        _end(error, 1)
    except FiprayError as error:
        _end(error, 2)


def _end(message: object, status: int) -> NoReturn:
    typer.echo(f"fipray: {message}", err=True)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
