"""Commands that run studies and searches."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import fipray
from fipray.cli.options import (
    ChangedOption,
    ClusterOptions,
    ComputeOptions,
    DeviceOption,
    Into,
    Parameters,
    PlacementOptions,
    RunnerOption,
    TrackerOptions,
)
from fipray.cli.runners import checked_changed, chosen_runner, given_compute, sinks_of
from fipray.terminal import print_summary, say

if TYPE_CHECKING:
    from fipray.execution import Runner
    from fipray.execution.listeners import Listener, Sink
    from fipray.recipes import Recipe
    from fipray.records import Store


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
    runner: RunnerOption = None,
    device: DeviceOption = "auto",
    changed: ChangedOption = "stop",
    *,
    cluster: ClusterOptions,
    placement: PlacementOptions,
    compute: ComputeOptions,
    trackers: TrackerOptions,
) -> None:
    """Run a study: trace its paths and evaluate them.

    Finished jobs are saved at once. The same command run again resumes: it runs only the jobs that are missing.

    Args:
        study: reference to the study's function, or name of a recipe.
        into: results directory.
        parameter: arguments of the study's function, as "NAME=VALUE".
        runner: "ray" or "local"; None for Ray if it is installed.
        device: "auto", "cuda", "mps" or "cpu".
        changed: "stop" or "redo".
        cluster: options of the cluster.
        placement: options of the workers' placement.
        compute: options of the passes through the network.
        trackers: options of experiment trackers.
    """
    computed = given_compute(compute)
    with chosen_runner(runner, device, cluster, placement) as chosen:

        def run_study(built: Any, runner: Runner, listener: Listener) -> Store:
            return runner.run(built, into, listener, checked_changed(changed))

        named = _Named(study, parameter or [], fipray.Study, cluster.threads_per_worker is None, computed)
        recipe = _drive(named, chosen, into, run_study, sinks_of(trackers, into))
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
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database in which Optuna keeps the trials, such as sqlite:///search.db, for optuna-dashboard.",
            show_default="none",
        ),
    ] = None,
    runner: RunnerOption = None,
    device: DeviceOption = "auto",
    changed: ChangedOption = "stop",
    *,
    cluster: ClusterOptions,
    placement: PlacementOptions,
    compute: ComputeOptions,
    trackers: TrackerOptions,
) -> None:
    """Search for the best values of a path's settings, with Ray Tune, or with Optuna in this process.

    Finished trials are saved at once. The same command run again resumes: it runs only the trials that are missing.
    With a larger number of trials it continues a finished search.

    Args:
        search: reference to the search's function, or name of a recipe.
        into: results directory.
        parameter: arguments of the search's function, as "NAME=VALUE".
        trials: number of trials; None for the search's own.
        searcher: name of the searcher; None for the search's own.
        scheduler: name of the scheduler; None for the search's own.
        storage: URL of a database for Optuna; None for none.
        runner: "ray" or "local"; None for Ray if it is installed.
        device: "auto", "cuda", "mps" or "cpu".
        changed: "stop" or "redo".
        cluster: options of the cluster.
        placement: options of the workers' placement.
        compute: options of the passes through the network.
        trackers: options of experiment trackers.
    """
    settings = {"num_trials": trials, "searcher": searcher, "scheduler": scheduler}
    given = {name: value for name, value in settings.items() if value is not None}
    computed = given_compute(compute)
    with chosen_runner(runner, device, cluster, placement) as chosen:

        def run_search(built: Any, _: Runner, listener: Listener) -> Store:
            return fipray.search.run(replace(built, **given), into, chosen, listener, checked_changed(changed), storage)

        # Trials run side by side: one thread for each uses the cores best.
        named = _Named(search, parameter or [], fipray.search.Search, is_fitted=False, computed=computed)
        recipe = _drive(named, chosen, into, run_search, sinks_of(trackers, into))
    print_summary(into)
    if recipe:
        say(recipe.found(fipray.analysis.load(into)))


@dataclass(frozen=True)
class _Named:
    """What a command names: a function that makes a study or search, or a recipe; with texts of its parameters."""

    text: str
    parameters: list[str]
    kind: type
    is_fitted: bool  # whether a recipe chooses the threads of its workers
    computed: dict[str, Any]  # arguments of `Compute` that replace those of the study, or of an earlier run of a recipe

    def recipe(self, chosen: Runner, into: str) -> tuple[Recipe | None, Runner]:
        """Make the recipe, with the choices that a directory has already, and its runner; None for a function."""
        if ":" in self.text:
            return None, chosen
        from fipray.recipes import find

        recipe = find(self.text).made(self.parameters)
        if self.computed:
            recipe = recipe.as_recorded(into)
            recipe = recipe.computed(replace(recipe.compute or fipray.Compute(), **self.computed))
        if self.is_fitted:
            chosen = recipe.fitted(chosen, into)
        return recipe.prepared(chosen, into), chosen

    def built(self, recipe: Recipe | None) -> Any:
        """Build the study or search; a recipe tries its settings now."""
        from fipray.study import reference

        is_search = self.kind is fipray.search.Search
        made: Any
        if recipe is None:
            function = reference.find(self.text)
            made = reference.build(function, reference.parse(function, self.parameters), self.kind)
        else:
            made = recipe.search() if is_search else recipe.study
        if recipe is None and self.computed:
            study = made.study if is_search else made
            study = replace(study, compute=replace(study.compute, **self.computed))
            made = replace(made, study=study) if is_search else study
        if is_search:
            return replace(made, study=made.study.made_by(self.text, self.parameters))
        return made.made_by(self.text, self.parameters)


def _drive(
    named: _Named, chosen: Runner, into: str, run: Callable[[Any, Runner, Listener], Store], sinks: list[Sink]
) -> Recipe | None:
    """Build what is named, run it with progress on the terminal, tell the sinks, and return the recipe if it is one."""
    from fipray.execution.listeners import Listeners
    from fipray.execution.stages import staged
    from fipray.terminal import TerminalListener

    with _interruptible(), TerminalListener() as terminal:  # also while it is built, which may train its base network
        terminal.doing(f"loading what {named.text} needs")
        with staged("fipray.recipes", terminal.doing):
            recipe, chosen = named.recipe(chosen, into)
        terminal.doing(f"choosing the settings of {named.text}" if recipe else f"building {named.text}")
        with staged("fipray.recipes", terminal.doing):
            if recipe:
                say(recipe.describe())
            built = named.built(recipe)
        if recipe is None:  # a recipe's description has them
            for note in (built.study if isinstance(built, fipray.search.Search) else built).data.notes:
                terminal.note(note)
        listener = Listeners([terminal], sinks)
        listener.end(run(built, chosen, listener))
    return recipe


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
