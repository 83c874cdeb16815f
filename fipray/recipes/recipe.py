"""Recipe: a study for anyone's network and data, with settings that a short trial chooses.

A recipe of one's own is a `Design`: `choose` runs the trial, `plan` turns what was chosen into paths. Everything else
is the same for all recipes and lies here: the study, the record of the choices in the manifest, a rerun that reuses
them, and the names of the results.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, final, runtime_checkable

from torch import nn

from fipray import analysis
from fipray.analysis.trial_frames import CONFIG
from fipray.border import checked
from fipray.errors import UsageError
from fipray.execution import Listener, LocalRunner, Runner, Silent
from fipray.execution.stages import staged
from fipray.geometry import FisherRao, OutputGeometry
from fipray.networks import Compute, Network
from fipray.paths import tasks_of
from fipray.recipes.anchors import ALL, AnchorChoice
from fipray.recipes.machine import Machine, best_threads, gradient_seconds, num_cores, with_threads, workers_on_cores
from fipray.recipes.record import (
    CHOSEN,
    REASONS,
    RECIPE,
    RESULTS,
    THREADS,
    Plain,
    recorded,
    recorded_compute,
    recorded_threads,
)
from fipray.recipes.rules import Rule, written
from fipray.study import Data, EnsembleSpec, Evaluation, PathSpec, Search, Study
from fipray.study.measures import AnyMeasure
from fipray.study.space import Domain
from fipray.study.tensors import Tensors

NUM_TIMED_ON = 128
"""Inputs on which a gradient is timed: about as many as the batch of a step has."""

MOST_SHOWN = 8  # trials whose settings are told


_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """What a trial chose, and why.

    Args:
        values: all settings by name, as plain values: what a rerun needs to make the same study without a trial.
        reasons: plain sentences.
    """

    values: Mapping[str, Plain]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """Setting of a recipe for which a searched field stands.

    Args:
        name: argument of the recipe, such as "beta".
        factor: the setting is the field's value times this number.
    """

    name: str
    factor: float = 1.0

    def value(self, found: Plain) -> Plain:
        """Convert the value of the field to that of the setting.

        Args:
            found: value of the field.

        Returns:
            Value of the setting; a number with a factor is rounded to four digits.
        """
        if self.factor == 1.0 or not isinstance(found, (int, float)):
            return found
        return float(f"{self.factor * found:.4g}")


@dataclass(frozen=True)
class Plan:
    """What a recipe runs: the parts of its study, and its results by name.

    Args:
        paths: specs of the paths.
        results: results by name: the name of a network (a path, variant or ensemble), or a rule that names one when
            the results are read.
        anchors: choice among the given anchors.
        ensembles: specs of ensembles.
        evaluation: attacks.
        geometry: output geometry.
        measures: measures of saved points.
        space: domains of the fields that `fipray search` varies; empty where the recipe cannot be searched.
        objectives: objectives of such a search.
        judges: measures of such a search, besides those of the study.
        settings: settings of the recipe for which the searched fields stand, as `Setting` by the field's name.
        networks: other networks of the study by name.
    """

    paths: tuple[PathSpec, ...]
    results: Mapping[str, str | Rule]
    anchors: AnchorChoice = ALL
    ensembles: tuple[EnsembleSpec, ...] = ()
    evaluation: Evaluation | None = None
    geometry: OutputGeometry = FisherRao()
    measures: Mapping[str, AnyMeasure] = field(default_factory=dict)
    space: Mapping[str, Domain] = field(default_factory=dict)
    objectives: Mapping[str, str] = field(default_factory=dict)
    judges: Mapping[str, AnyMeasure] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    networks: Mapping[str, nn.Module] = field(default_factory=dict)


@runtime_checkable
class Design(Protocol):
    """The part of a recipe that is its own.

    Attributes:
        module: base network.
        data: given data.
        num_parallel: number of paths that can be traced at the same time.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def data(self) -> Data: ...

    @property
    def num_parallel(self) -> int: ...

    def computed(self, compute: Compute) -> Design:
        """Choose how passes through the network are computed, in the trial and wherever else it is evaluated.

        Args:
            compute: precision, memory format and size of the passes.

        Returns:
            The same design otherwise.
        """
        ...

    def choose(self, machine: Machine) -> Chosen:
        """Choose all settings, where need be by a short trial.

        Args:
            machine: threads and device of the workers.

        Returns:
            Settings, with the given overrides among them.
        """
        ...

    def plan(self, values: Mapping[str, Plain]) -> Plan:
        """Make the parts of the study, without measuring anything.

        Args:
            values: settings, of this run or as an earlier one recorded them.

        Returns:
            Parts of the study. Equal values make equal parts, on any machine.
        """
        ...

    def outcome(self, results: analysis.Results) -> tuple[str, ...]:
        """Describe what came out.

        Args:
            results: results of a finished run.

        Returns:
            Plain sentences with the numbers.
        """
        ...


@final
@dataclass(frozen=True, eq=False, repr=False)
class Recipe:
    """Recipe for one network and its data. The study is made, after a short trial, when it is first needed.

    Args:
        name: name of the recipe; of the form of a study's name.
        design: what is its own.
        parameters: arguments as given, as plain values for the record; module and data are not among them.
        machine: where the trial runs, as the workers of the study will.
        known: choices of an earlier run; None to make them.
        compute: precision and size of all passes, see `computed`; None for those of an earlier run into the directory,
            or the defaults of `Compute`.
    """

    name: str
    design: Design
    parameters: Mapping[str, Plain]
    machine: Machine = Machine()  # noqa: RUF009
    known: Chosen | None = None
    compute: Compute | None = None

    @cached_property
    def chosen(self) -> Chosen:
        """Settings and the reasons for them; the trial runs when this is first read."""
        return self.known or self.design.choose(self.machine)

    @cached_property
    def plan(self) -> Plan:
        """Parts of the study and names of its results."""
        return self.design.plan(self.chosen.values)

    @cached_property
    def study(self) -> Study:
        """The study, with all choices among its parameters."""
        plan = self.plan
        _logger.info("making the study: choosing anchors, hashing data, trying each path on two inputs")
        return Study(
            name=self.name,
            module=self.design.module,
            data=plan.anchors.of(self.design.data),
            paths=plan.paths,
            ensembles=plan.ensembles,
            evaluation=plan.evaluation,
            geometry=plan.geometry,
            measures=plan.measures,
            networks=plan.networks,
            parameters=self._record,
            compute=self.compute or Compute(),
        )

    @checked
    def computed(self, compute: Compute) -> Recipe:
        """Choose how passes through the network are computed, in the trial as on the workers.

        Args:
            compute: precision, memory format and size of the passes.

        Returns:
            The recipe; a trial that has run is repeated, since the number of steps follows from their speed.
        """
        return replace(self, design=self.design.computed(compute), compute=compute)

    def search(self, num_trials: int = 16) -> Search:
        """Search over the settings of the first path that matter most, around those that were chosen.

        Args:
            num_trials: number of trials, at least 1.

        Returns:
            The search.

        Raises:
            UsageError: for a recipe that cannot be searched.
        """
        if not self.plan.space:
            raise UsageError(
                f"recipe {self.name!r} has no search: give its settings by name, or write a fip.search.Search"
            )
        measures = {**self.study.measures, **self.plan.judges}
        # No test input takes part in a choice, so none is attacked.
        first, *others = self.plan.paths
        study = replace(self.study, paths=(first,), ensembles=(), evaluation=None, measures=measures)
        # Without the tasks of later paths, which would count as known if no path learns them.
        later = {task for path in others for task in tasks_of(path.objective)} - set(tasks_of(first.objective))
        if later:
            tasks = {name: task for name, task in study.data.tasks.items() if name not in later}
            study = replace(study, data=replace(study.data, tasks=tasks))
        return Search(study, self.plan.space, self.plan.objectives, num_trials=num_trials)

    def settings_of(self, config: Mapping[str, Plain]) -> dict[str, Plain]:
        """Convert the values of a trial of `search` to settings of the recipe.

        Args:
            config: values by the name of the field: those of the columns `config.*` of `results.trials`, without that
                prefix.

        Returns:
            Settings by name, to be given to the recipe, in Python or by `-p NAME=VALUE`.

        Raises:
            UsageError: for a field that the recipe's search does not vary.
        """
        if unknown := [name for name in config if name not in self.plan.settings]:
            raise UsageError(
                f"recipe {self.name!r} has no setting for {unknown[0]!r}; its search varies: "
                f"{', '.join(self.plan.settings) or 'nothing'}"
            )
        return {self.plan.settings[name].name: self.plan.settings[name].value(found) for name, found in config.items()}

    def found(self, results: analysis.Results) -> str:
        """Tell the settings of the trials on the Pareto front of `search`, as a command line takes them.

        Args:
            results: results of a search.

        Returns:
            Text with one trial a line, at most eight; empty without a finished trial.
        """
        front = results.pareto().head(MOST_SHOWN)
        # By columns: a row as a whole would turn integers into floats.
        columns = [front[f"{CONFIG}{name}"].tolist() for name in self.plan.settings]
        lines = []
        for name, *values in zip(front["name"], *columns, strict=True):
            settings = self.settings_of(dict(zip(self.plan.settings, values, strict=True)))
            lines.append(
                f"  {name}: {' '.join(f'-p {setting}={_shown(found)}' for setting, found in settings.items())}"
            )
        return "\n".join([f"settings of the front, for fipray run {self.name}:", *lines]) if lines else ""

    def prepared(self, runner: Runner, into: str | Path) -> Recipe:
        """Make the recipe ready to run: with the choices of an earlier run, or to try on a machine like the workers'.

        Args:
            runner: runner of the study.
            into: results directory or address, which need not exist.

        Returns:
            The recipe; its trial runs when its study is first needed.

        Raises:
            UsageError: for a directory of another recipe, of other parameters or of another precision.
        """
        if self.known is not None or "chosen" in vars(self):
            # What was chosen is kept, but a directory's own choices come first: IDs follow from them.
            return replace(self, known=self.chosen, machine=Machine.of(runner)).as_recorded(into)
        return replace(self, machine=Machine.of(runner)).as_recorded(into)

    def fitted(self, runner: Runner, into: str | Path) -> Runner:
        """Give the workers of a runner on this machine as many CPU threads as make the recipe fastest.

        Args:
            runner: runner of the study.
            into: results directory or address, which need not exist.

        Returns:
            The runner with the threads of the earlier run into the directory, so that the rest of it is computed as
            its beginning was; else with as many as pay for one gradient. Workers on other machines, or with GPUs, stay
            as they are.

        Raises:
            UsageError: for a directory of another recipe, of other parameters or of another precision.
        """
        workers = workers_on_cores(runner)
        if workers is None:
            return runner
        ready = self.as_recorded(into)  # refuses the directory of another study, whose threads would be no answer
        threads = recorded_threads(into) or ready._best_threads(workers or self.design.num_parallel)
        return with_threads(runner, min(threads, num_cores()))  # the earlier run may have had a larger machine

    def _best_threads(self, num_workers: int) -> int:
        # One core is left to others. Where another process takes a core of a worker, the threads of each operation wait
        # for the one that does not run: steps then take twenty times as long, which more threads cannot make up for.
        most = (num_cores() - 1) // num_workers
        if most < 2:
            return 1
        data = self.design.data
        _logger.info(f"timing gradients with up to {most} threads")
        network = Network.of(data.packed(self.design.module)).computed(self.compute or Compute())
        some = Tensors(data, "cpu").anchors(())[:NUM_TIMED_ON]
        network.check(some)  # explains what a pass would only raise
        return best_threads(gradient_seconds(network, some), most)

    def as_recorded(self, into: str | Path) -> Recipe:
        """Take over the choices that an earlier run into a directory recorded, and how its passes were computed.

        Args:
            into: results directory or address, which need not exist.

        Returns:
            The recipe with these choices, or itself where there are none.

        Raises:
            UsageError: for a directory of another recipe, of other parameters or of another precision.
        """
        found = recorded(into, self.name, self.parameters)
        if found is None:
            return self
        earlier = recorded_compute(into, None if self.compute is None else self.compute.precision)
        same = self if self.compute is not None or earlier == Compute() else self.computed(earlier)
        return replace(same, known=Chosen(*found))

    @checked
    def run(
        self,
        into: str | Path,
        runner: Runner | None = None,
        listener: Listener | None = None,
        changed: Literal["stop", "redo"] = "stop",
        compute: Compute | None = None,
    ) -> analysis.Results:
        """Run the recipe. The same call again computes only what is missing, with the choices of the first.

        Args:
            into: results directory, or an address such as s3://bucket/results.
            runner: runner of the study; None for this process, with as many CPU threads as make the recipe fastest.
            listener: told how the run progresses; None for silence.
            changed: what to do where the directory was made by other versions of your own code.
            compute: precision and size of all passes through the network, in the trial as on the workers; None for
                those of `computed`, else of the earlier run into the directory, else the defaults of `Compute`.

        Returns:
            The results; `results.module(name)` and `results.weights(name)` take the recipe's names, such as "pruned".

        Raises:
            UsageError: for a directory of another recipe or study, or of another precision.
            RunError: where jobs failed.
        """
        if compute is not None and compute != self.compute:
            other = self.computed(compute)
            results = other.run(into, runner, listener, changed)
            vars(self)["chosen"] = other.chosen
            return results
        runner = runner or self.fitted(LocalRunner(), into)
        ready = self.prepared(runner, into)
        with staged("fipray.recipes", (listener or Silent()).doing):
            study = ready.study
        runner.run(study, into, listener, changed)
        vars(self)["chosen"] = ready.chosen  # the trial is not repeated for `describe`
        return replace(analysis.load(into), like=ready.study.module)

    def outcome(self, results: analysis.Results) -> str:
        """Describe what came out, in plain sentences with the numbers.

        Args:
            results: results of this recipe.

        Returns:
            Text of one or more sentences.
        """
        return " ".join(self.design.outcome(results))

    def describe(self) -> str:
        """Describe what was done to the data and what was chosen, and why; runs the trial if it has not run.

        Returns:
            Text with one sentence a line.
        """
        sentences = (*self.design.data.notes, *self.chosen.reasons)
        return "\n".join([f"{self.name}:", *(f"  {sentence}" for sentence in sentences)])

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        # The trial takes a while: showing an object must not start it.
        is_ready = self.known is not None or "chosen" in vars(self)
        return self.describe() if is_ready else f"Recipe {self.name}({given}); settings are chosen when it runs"

    @property
    def _record(self) -> dict[str, Plain]:
        results = {
            name: {"network": rule} if isinstance(rule, str) else written(rule)
            for name, rule in self.plan.results.items()
        }
        return {
            RECIPE: self.name,
            **self.parameters,
            **{f"{CHOSEN}{name}": value for name, value in self.chosen.values.items()},
            REASONS: "\n".join(self.chosen.reasons),
            THREADS: self.machine.threads,
            RESULTS: json.dumps(results),
        }


def _shown(value: Plain) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
