"""The command line: a few verbs, each a few lines over the library."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

import fipray
from fipray.errors import ClusterLostError, FiprayError, RunError

if TYPE_CHECKING:
    from fipray.execution import Runner
    from fipray.execution.changed import Changed
    from fipray.execution.listeners import Sink

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Functionally invariant paths through the weight space of a network, many at once, on Ray.",
)


def _place(text: str | None) -> str | None:
    """The name of a directory or an address, refused before anything else is done where it is none."""
    from fipray.records.files import check_place

    if text is not None:
        check_place(text)
    return text


Directory = Annotated[
    str, typer.Argument(callback=_place, help="A results directory, or an address such as s3://bucket/x.")
]
Into = Annotated[
    str,
    typer.Option(
        callback=_place,
        help="The results directory, or an address such as s3://bucket/x: new, or one that this command began.",
    ),
]

ChangedOption = Annotated[
    str,
    typer.Option(
        metavar="stop|redo", help="Where your own code has changed since: stop, or redo what depends on it in there."
    ),
]


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="The study, as module:function or file.py:function.")],
    into: Into,
    parameter: Annotated[
        list[str], typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="A knob of the study.")
    ] = [],  # noqa: B006
    runner: Annotated[str, typer.Option(help="'ray', or 'local': in this process, one after the other.")] = "ray",
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster: 'auto' for the one on this machine, ray://HOST:10001, or 'local'."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Actors; by default as many as fit, at any time.")] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="GPUs of each, or a fraction; by default 1 where there are.")
    ] = None,
    threads_per_worker: Annotated[int, typer.Option(help="CPU cores of each.")] = 1,
    memory_per_worker: Annotated[
        str, typer.Option(metavar="SIZE", help="Kept free on its node for each, such as 4GB.")
    ] = "0",
    resource: Annotated[
        list[str], typer.Option(metavar="NAME=AMOUNT", help="Of a custom resource of the cluster, for each.")
    ] = [],  # noqa: B006
    placement: Annotated[
        str, typer.Option(help="'pack': fill a node to half, then the next; 'spread': over many nodes.")
    ] = "pack",
    stall_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Kill and retry work that finishes no step for as long (the first: three times); by default never.",
        ),
    ] = None,
    changed: ChangedOption = "stop",
    tensorboard: Annotated[
        str | None, typer.Option(callback=_place, help="A directory for TensorBoard: a curve a measure.")
    ] = None,
    mlflow: Annotated[str | None, typer.Option(help="MLflow's URI, such as sqlite:///mlflow.db: a run a path.")] = None,
) -> None:
    """Trace the paths of a study and judge them. The same command run again does only what is missing."""
    asked = (
        address,
        workers,
        gpus_per_worker,
        threads_per_worker,
        memory_per_worker,
        resource,
        placement,
        stall_seconds,
    )
    chosen = _runner(runner, *asked)
    from fipray.execution.listeners import Listeners
    from fipray.study import reference  # loads torch: after what the cluster has was asked
    from fipray.terminal import TerminalWatch, print_summary

    function = reference.find(study)
    values = reference.parse(function, parameter)
    sinks = _sinks(tensorboard, mlflow)
    with _ending_cleanly():
        made = reference.build(function, values, fipray.Study)
        with TerminalWatch() as terminal:
            listener = Listeners([terminal], sinks)
            store = chosen.run(made, into, listener, _changed(changed))
            if sinks:  # what earlier runs committed
                listener.write({name: store.read_table(name).to_pylist() for name in ("paths", "points")})
    print_summary(into)


@app.command()
def search(
    search: Annotated[str, typer.Argument(help="The search, as module:function or file.py:function.")],
    into: Into,
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
    stall_seconds: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Kill and retry work that finishes no step for as long (the first: three times); by default never.",
        ),
    ] = None,
    changed: ChangedOption = "stop",
) -> None:
    """Search the fields of a path's spec with Ray Tune. The same command run again does only what is missing."""
    runner = fipray.RayRunner(address, workers, gpus_per_worker, threads_per_worker, stall_seconds=stall_seconds)
    runner.preflight()
    from fipray.study import reference
    from fipray.terminal import TerminalWatch, print_summary

    function = reference.find(search)
    values = reference.parse(function, parameter)
    with _ending_cleanly():
        made = reference.build(function, values, fipray.search.Search)
        made = replace(
            made,
            num_trials=made.num_trials if trials is None else trials,
            searcher=searcher or made.searcher,
            scheduler=scheduler or made.scheduler,
        )
        with TerminalWatch() as listener:
            fipray.search.run(made, into, runner, listener, _changed(changed))
    print_summary(into)


@app.command()
def show(directory: Directory) -> None:
    """Print what a results directory holds: base, paths and ensembles, a line each."""
    from fipray.terminal import print_summary

    print_summary(directory)


@app.command()
def verify(directory: Directory) -> None:
    """Read every file that counts, and name those that are not as they were written. Ends with status 2 then."""
    from fipray.records import Store

    store = Store.open(directory)
    store.verify()
    typer.echo(f"{len(store.committed())} pieces of work, all as they were written")


@app.command()
def compact(directory: Directory) -> None:
    """Put the many small tables of a long run into few files, also while it goes on or others read."""
    from fipray import records

    before, after = records.compact(records.Store.open(directory))
    typer.echo(f"{before} commits are {after} now")


@app.command()
def export(
    directory: Directory,
    path: Annotated[str, typer.Option(help="Name or path_id of the path.")],
    to: Annotated[Path, typer.Option(help="The file to write: .safetensors, or .pt as torch.save makes it.")],
    sparsity: Annotated[
        float | None, typer.Option(help="One that the path was asked for on its way; by default its end.")
    ] = None,
    slim: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Leave out channels that are zero: a smaller dense module's state, for fipray.fitted. The function, "
            "called without arguments, makes the study's module.",
        ),
    ] = None,
) -> None:
    """Write the weights of a sparse variant, or of any path's end, as the state_dict of the study's module."""
    from fipray import export as exporting
    from fipray.terminal import say

    say(exporting.export(directory, path, sparsity, to, slim))


@app.command()
def doctor(
    into: Annotated[
        str | None, typer.Option(callback=_place, help="A results directory, or an address such as s3://bucket/x.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster; 'auto' for the one on this machine.")] = None,
) -> None:
    """Ask whether everything is there that a run needs. Ends with status 1 where something is not."""
    from fipray.cluster.doctor import examine
    from fipray.terminal import print_findings

    if not print_findings(examine(address, into)):
        raise SystemExit(1)


def _runner(
    name: str,
    address: str | None,
    workers: int | None,
    gpus: float | None,
    threads: int,
    memory: str,
    resources: list[str],
    placement: str,
    stall_seconds: float | None,
) -> Runner:
    if name == "local":
        if (address, workers, gpus, memory, resources, placement, stall_seconds) != (
            *[None] * 3,
            "0",
            [],
            "pack",
            None,
        ):
            raise fipray.errors.UsageError(
                "--runner local works in this process: it takes no --address, --workers, --gpus-per-worker, "
                "--memory-per-worker, --resource, --placement or --stall-seconds"
            )
        return fipray.LocalRunner(threads=threads)
    if name != "ray":
        raise fipray.errors.UsageError(f"there is no runner {name!r}; there are: ray, local")
    runner = fipray.RayRunner(
        *(address, workers, gpus, threads, _size(memory), _amounts(resources), placement), stall_seconds=stall_seconds
    )
    runner.preflight()
    return runner


def _changed(text: str) -> Changed:
    if text not in ("stop", "redo"):
        raise fipray.errors.UsageError(f"--changed is 'stop' or 'redo'; {text!r} was given")
    return "redo" if text == "redo" else "stop"


def _size(text: str) -> int:
    """Bytes, of a text such as 500MB, 4GB or 4GiB."""
    try:
        return int(TypeAdapter(ByteSize).validate_strings(text))
    except ValidationError as error:
        raise fipray.errors.UsageError(
            f"--memory-per-worker is a size such as 500MB or 4GB; {text!r} was given"
        ) from error


def _amounts(texts: list[str]) -> dict[str, float]:
    """Amounts by name, of texts such as tpu=2."""
    amounts: dict[str, float] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            amounts[name] = float(amount)
        except ValueError as error:
            raise fipray.errors.UsageError(f"--resource is given as NAME=AMOUNT; {text!r} was given") from error
    return amounts


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Ctrl-C and SIGTERM end with a sentence, here, because typer would end without a word."""
    was_terminated = False

    def terminate(*_: object) -> NoReturn:
        nonlocal was_terminated
        was_terminated = True
        raise KeyboardInterrupt  # which is also what Ray makes of any exception in a handler while it waits

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        what = "terminated" if was_terminated else "interrupted"
        _end(f"{what}; what is done is kept, and the same command goes on from there", 143 if was_terminated else 130)
    finally:
        signal.signal(signal.SIGTERM, before)


def _sinks(tensorboard: str | None, mlflow: str | None) -> list[Sink]:
    from fipray.sinks import MLflowSink, TensorBoardSink

    sinks: list[Sink] = []
    if tensorboard is not None:
        sinks.append(TensorBoardSink(tensorboard))
    if mlflow is not None:
        sinks.append(MLflowSink(mlflow))
    return sinks


def main() -> None:
    """Entry point. Ends with status 2 for wrong use, 1 for work that failed, 130 after Ctrl-C, 143 after SIGTERM."""
    sys.path.insert(0, str(Path.cwd()))  # studies are found where the command is run, as with `python -m`
    importlib.invalidate_caches()
    try:
        app()
    except ClusterLostError as error:
        typer.echo(f"fipray: {error}", err=True)
        sys.stderr.flush()
        os._exit(1)  # without Ray's own exit handler, which waits for the process that is gone
    except RunError as error:
        _end(error, 1)
    except FiprayError as error:
        _end(error, 2)


def _end(message: object, status: int) -> NoReturn:
    typer.echo(f"fipray: {message}", err=True)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
