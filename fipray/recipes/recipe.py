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
from fipray.border import checked
from fipray.errors import UsageError
from fipray.execution import Listener, LocalRunner, Runner, Silent
from fipray.execution.stages import staged
from fipray.geometry import FisherRao, OutputGeometry
from fipray.recipes.anchors import ALL, AnchorChoice
from fipray.recipes.machine import Machine
from fipray.recipes.record import CHOSEN, REASONS, RECIPE, RESULTS, Plain, recorded
from fipray.study import Data, EnsembleSpec, Evaluation, PathSpec, Search, Study
from fipray.study.measures import AnyMeasure
from fipray.study.space import Domain


@dataclass(frozen=True)
class SparsestWithin:
    """Result of a recipe: the sparsest variant of paths whose measure is high enough, else the base network.

    Args:
        paths: names of the paths.
        measure: name of the measure.
        least: smallest value of the measure.
    """

    paths: tuple[str, ...]
    measure: str
    least: float


@dataclass(frozen=True)
class FirstWithin:
    """Result of a recipe: the first of some evaluated networks that is within an allowance, else the base network.

    Args:
        networks: names of the networks.
        most: largest value of the column.
        column: column of `robustness` with a loss on held-out inputs, in the row without an attack.
    """

    networks: tuple[str, ...]
    most: float
    column: Literal["accuracy_loss_held_out", "nll_loss_held_out"] = "accuracy_loss_held_out"


Rule = SparsestWithin | FirstWithin
_logger = logging.getLogger(__name__)
_RULES: dict[type, str] = {SparsestWithin: "sparsest_within", FirstWithin: "first_within"}


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
    networks: Mapping[str, nn.Module] = field(default_factory=dict)


@runtime_checkable
class Design(Protocol):
    """The part of a recipe that is its own.

    Attributes:
        module: base network.
        data: given data.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def data(self) -> Data: ...

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
    """

    name: str
    design: Design
    parameters: Mapping[str, Plain]
    machine: Machine = Machine()  # noqa: RUF009
    known: Chosen | None = None

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
        )

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
        study = replace(self.study, paths=self.plan.paths[:1], ensembles=(), evaluation=None, measures=measures)
        return Search(study, self.plan.space, self.plan.objectives, num_trials=num_trials)

    def prepared(self, runner: Runner, into: str | Path) -> Recipe:
        """Make the recipe ready to run: with the choices of an earlier run, or to try on a machine like the workers'.

        Args:
            runner: runner of the study.
            into: results directory or address, which need not exist.

        Returns:
            The recipe; its trial runs when its study is first needed.

        Raises:
            UsageError: for a directory of another recipe, or of other parameters.
        """
        if self.known is not None or "chosen" in vars(self):
            # What was chosen is kept, but a directory's own choices come first: IDs follow from them.
            return replace(self, known=self.chosen).as_recorded(into)
        return replace(self, machine=Machine.of(runner)).as_recorded(into)

    def as_recorded(self, into: str | Path) -> Recipe:
        """Take over the choices that an earlier run into a directory recorded.

        Args:
            into: results directory or address, which need not exist.

        Returns:
            The recipe with these choices, or itself where there are none.

        Raises:
            UsageError: for a directory of another recipe, or of other parameters.
        """
        found = recorded(into, self.name, self.parameters)
        return self if found is None else replace(self, known=Chosen(*found))

    @checked
    def run(
        self,
        into: str | Path,
        runner: Runner | None = None,
        listener: Listener | None = None,
        changed: Literal["stop", "redo"] = "stop",
    ) -> analysis.Results:
        """Run the recipe. The same call again computes only what is missing, with the choices of the first.

        Args:
            into: results directory, or an address such as s3://bucket/results.
            runner: runner of the study; None for this process.
            listener: told how the run progresses; None for silence.
            changed: what to do where the directory was made by other versions of your own code.

        Returns:
            The results; `results.module(name)` and `results.weights(name)` take the recipe's names, such as "pruned".

        Raises:
            UsageError: for a directory of another recipe or study.
            RunError: where jobs failed.
        """
        runner = runner or LocalRunner()
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
            name: {"network": rule} if isinstance(rule, str) else {"rule": _RULES[type(rule)], **vars(rule)}
            for name, rule in self.plan.results.items()
        }
        return {
            RECIPE: self.name,
            **self.parameters,
            **{f"{CHOSEN}{name}": value for name, value in self.chosen.values.items()},
            REASONS: "\n".join(self.chosen.reasons),
            RESULTS: json.dumps(results),
        }
