"""Commands that run studies and searches."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

import fipray
from fipray.cli.options import ChangedOption, ClusterOptions, Into, Parameters, PlacementOptions, TrackerOptions
from fipray.errors import UsageError

if TYPE_CHECKING:
    from fipray.execution import Runner
    from fipray.execution.changed import Changed
    from fipray.execution.listeners import Sink
    from fipray.recipes import Recipe


def run(
    study: Annotated[
        str,
        typer.Argument(
            help="Function that returns the study, as module:function or file.py:function; or the name of a recipe, "
            "see `fipray recipes`."
        ),
    ],
    into: Into,
    parameter: Parameters = None,
    runner: Annotated[
        str, typer.Option(help="'ray' for workers on Ray, 'local' for this process, one job after the other.")
    ] = "ray",
    changed: ChangedOption = "stop",
    *,
    cluster: ClusterOptions,
    placement: PlacementOptions,
    trackers: TrackerOptions,
) -> None:
    """Run a study: trace its paths and evaluate them.

    Finished jobs are saved at once. The same command run again resumes: it runs only the jobs that are missing.

    Args:
        study: reference to the study's function, or name of a recipe.
        into: results directory.
        parameter: arguments of the study's function, as "NAME=VALUE".
        runner: "ray" or "local".
        changed: "stop" or "redo".
        cluster: options of the cluster.
        placement: options of the workers' placement.
        trackers: options of experiment trackers.
    """
    # The preflight on the cluster comes first: it takes seconds, and what follows loads torch.
    chosen = _runner(runner, cluster, placement)
    from fipray.execution.listeners import Listeners
    from fipray.study import reference
    from fipray.terminal import TerminalListener, print_summary, say

    recipe = _recipe(study, parameter) if ":" not in study else None
    function = None if recipe else reference.find(study)
    values = reference.parse(function, parameter or []) if function else {}
    sinks = _sinks(trackers)
    with _interruptible():  # also while the study is built, which may train its base network
        if recipe:
            recipe = recipe.prepared(chosen, into)
            say(recipe.describe())
            built = recipe.study
        elif function:
            built = reference.build(function, values, fipray.Study)
        with TerminalListener() as terminal:
            listener = Listeners([terminal], sinks)
            store = chosen.run(built, into, listener, _changed(changed))
            if sinks:  # they have not seen the results of earlier runs
                listener.write({name: store.read_table(name).to_pylist() for name in ("paths", "points")})
    print_summary(into)
    if recipe:
        say(recipe.outcome(fipray.analysis.load(into)))


def search(
    search: Annotated[
        str,
        typer.Argument(
            help="Function that returns the search, as module:function or file.py:function; or the name of a recipe."
        ),
    ],
    into: Into,
    parameter: Parameters = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials.", show_default="as the search says")] = None,
    searcher: Annotated[
        str | None, typer.Option(help="'random', 'optuna' or 'grid'.", show_default="as the search says")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Rule for stopping trials early: 'asha', 'median' or 'none'.", show_default="as the search says"
        ),
    ] = None,
    changed: ChangedOption = "stop",
    *,
    cluster: ClusterOptions,
) -> None:
    """Search for the best values of a path's settings, with Ray Tune.

    Finished trials are saved at once. The same command run again resumes: it runs only the trials that are missing.

    Args:
        search: reference to the search's function, or name of a recipe.
        into: results directory.
        parameter: arguments of the search's function, as "NAME=VALUE".
        trials: number of trials; None for the search's own.
        searcher: name of the searcher; None for the search's own.
        scheduler: name of the scheduler; None for the search's own.
        changed: "stop" or "redo".
        cluster: options of the cluster.
    """
    runner = _ray_runner(cluster)
    runner.preflight()
    from fipray.study import reference
    from fipray.terminal import TerminalListener, print_summary, say

    recipe = _recipe(search, parameter) if ":" not in search else None
    function = None if recipe else reference.find(search)
    values = reference.parse(function, parameter or []) if function else {}
    with _interruptible():
        if recipe:
            recipe = recipe.prepared(runner, into)
            say(recipe.describe())
            built = recipe.search()
        elif function:
            built = reference.build(function, values, fipray.search.Search)
        built = replace(
            built,
            num_trials=built.num_trials if trials is None else trials,
            searcher=searcher or built.searcher,
            scheduler=scheduler or built.scheduler,
        )
        with TerminalListener() as listener:
            fipray.search.run(built, into, runner, listener, _changed(changed))
    print_summary(into)


def _recipe(name: str, parameter: list[str] | None) -> Recipe:
    from fipray.recipes import find

    return find(name).made(parameter or [])


def _runner(name: str, cluster: ClusterOptions, placement: PlacementOptions) -> Runner:
    if name == "local":
        # The number of threads is the one option that both runners take.
        if replace(cluster, threads_per_worker=1) != ClusterOptions() or placement != PlacementOptions():
            raise UsageError(
                "--runner local runs in this process: it takes no --address, --workers, --gpus-per-worker, "
                "--memory-per-worker, --resource, --placement or --stall-seconds"
            )
        return fipray.LocalRunner(threads=cluster.threads_per_worker)
    if name != "ray":
        raise UsageError(f"unknown runner {name!r}; available: ray, local")
    runner = _ray_runner(cluster, placement)
    runner.preflight()
    return runner


def _ray_runner(cluster: ClusterOptions, placement: PlacementOptions | None = None) -> fipray.RayRunner:
    placement = placement or PlacementOptions()
    return fipray.RayRunner(
        address=cluster.address,
        num_workers=cluster.workers,
        gpus_per_worker=cluster.gpus_per_worker,
        threads_per_worker=cluster.threads_per_worker,
        memory_per_worker=_num_bytes(placement.memory_per_worker),
        resources_per_worker=_amounts(placement.resource or []),
        placement=placement.placement,
        stall_seconds=cluster.stall_seconds,
    )


def _changed(text: str) -> Changed:
    if text not in ("stop", "redo"):
        raise UsageError(f"--changed must be 'stop' or 'redo', got {text!r}")
    return "redo" if text == "redo" else "stop"


def _num_bytes(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_strings(text))
    except ValidationError as error:
        raise UsageError(f"--memory-per-worker must be a size such as 500MB or 4GB, got {text!r}") from error


def _amounts(texts: list[str]) -> dict[str, float]:
    amounts: dict[str, float] = {}
    for text in texts:
        name, _, amount = text.partition("=")
        try:
            amounts[name] = float(amount)
        except ValueError as error:
            raise UsageError(f"--resource must be NAME=AMOUNT, got {text!r}") from error
    return amounts


def _sinks(trackers: TrackerOptions) -> list[Sink]:
    from fipray.sinks import MLflowSink, TensorBoardSink

    sinks: list[Sink] = []
    if trackers.tensorboard is not None:
        sinks.append(TensorBoardSink(trackers.tensorboard))
    if trackers.mlflow is not None:
        sinks.append(MLflowSink(trackers.mlflow))
    return sinks


@contextmanager
def _interruptible() -> Iterator[None]:
    """Exit with a message on Ctrl-C and SIGTERM. Here, since typer would turn KeyboardInterrupt into a silent exit."""
    was_terminated = False

    def terminate(*_: object) -> NoReturn:
        nonlocal was_terminated
        was_terminated = True
        raise KeyboardInterrupt  # Ray, while it waits, turns every exception of a signal handler into this one

    # The default action ends the process at once, without closing Ray's session or restoring the terminal.
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        what = "terminated" if was_terminated else "interrupted"
        typer.echo(f"fipray: {what}; finished jobs are saved. Run the same command again to resume", err=True)
        # 128 plus the number of the signal, as shells report it.
        raise SystemExit(143 if was_terminated else 130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
