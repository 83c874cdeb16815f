"""Recipe `learn`: further tasks, one after the other, while what was known stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from fipray import analysis
from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import DataError, UsageError
from fipray.networks import Compute
from fipray.paths import FirstOrder, SaveAt, Scheduled, Shifted
from fipray.recipes.budget import Budget, Given
from fipray.recipes.catalogue import overrides_of, recipe
from fipray.recipes.learning.choices import LearningChoices
from fipray.recipes.learning.series import KNOWN, Scenario, Series, held_out_name
from fipray.recipes.learning.trial import LEARNED, Trial, objective, settings
from fipray.recipes.machine import Machine
from fipray.recipes.recipe import Chosen, Plan, Recipe, Setting
from fipray.recipes.record import GIVEN, Plain
from fipray.recipes.subject import Subject
from fipray.study import AccuracyLoss, Data, LogUniform, PathSpec, Task, TaskAccuracy
from fipray.study.measures import ACCURACY_LOSS, TASK_ACCURACY

RESULT = "learned"


@dataclass(frozen=True, eq=False)
class Learning:
    """Design of the recipe `learn`.

    Args:
        series: network and tasks.
        allowance: largest loss of accuracy on an earlier task.
        budget: budget of the recipe.
        overrides: settings that are not to be chosen.
    """

    series: Series
    allowance: float
    budget: Budget
    overrides: Mapping[str, Any]

    @property
    def module(self) -> nn.Module:
        return self.series.module

    @property
    def data(self) -> Data:
        return self.series.data

    @property
    def num_parallel(self) -> int:
        return 1

    def computed(self, compute: Compute) -> Learning:
        return replace(self, series=replace(self.series, subject=self.series.subject.computed(compute)))

    def choose(self, machine: Machine) -> Chosen:
        self.series.subject.check()
        if not self.series.subject.is_classifier or self.series.subject.base_outputs.ndim != 2:
            raise UsageError(
                "tasks are learned by classifiers with outputs [N, C]; this network's outputs are "
                f"{list(self.series.subject.base_outputs.shape)}"
            )
        with machine.used():
            choices, reasons = Trial(self.series, machine, self.allowance, self.budget, self.overrides).choices()
        return Chosen(asdict(choices), (*reasons, *self.series.subject.remarks))

    def plan(self, values: Mapping[str, Plain]) -> Plan:
        choices = LearningChoices(**values)  # type: ignore[arg-type]
        names, paths, before = self.series.names, list[PathSpec](), "base"
        for number, name in enumerate(names[1:], 1):
            path = PathSpec(
                _slug(name),
                objective(name, choices),
                **{
                    **vars(settings(self.series, choices, number)),
                    "save_at": SaveAt(1, solver_state=False),
                    "seed": 1000 * self.series.seed + number,
                },
                start=before,
                anchors=tuple(f"stored {earlier}" for earlier in names[:number]),
                held_out=tuple(held_out_name(earlier) for earlier in names[:number]),
                augmentations=self._copies(choices.shifted),
            )
            paths.append(path)
            before = path.name
        return Plan(
            paths=tuple(paths),
            results={RESULT: before},
            geometry=self.series.subject.geometry,
            **self._searched(paths[0], choices),
        )

    def _searched(self, path: PathSpec, choices: LearningChoices) -> dict[str, Any]:
        """Name what `fipray search` varies on the first path, and how it judges: by held-out examples alone."""
        assert isinstance(path.stepper, FirstOrder)
        assert isinstance(path.radius, Scheduled)
        beta, radius = path.stepper.beta, path.radius.initial
        return {
            "space": {
                "stepper.beta": LogUniform(beta / 5, beta * 5),
                "radius.initial": LogUniform(radius / 4, radius * 4),
            },
            "objectives": {TASK_ACCURACY: "max", ACCURACY_LOSS: "min"},
            "judges": {TASK_ACCURACY: TaskAccuracy(held_out_name(self.series.names[1])), ACCURACY_LOSS: AccuracyLoss()},
            # A path has the beta of one output and the radius in units of |w0|.
            "settings": {
                "stepper.beta": Setting("beta", choices.beta / beta),
                "radius.initial": Setting("rate", choices.rate / radius),
            },
        }

    def _copies(self, count: int) -> tuple[Shifted, ...]:
        image = self.series.subject.data.anchors.shape[1:]
        pixels = max(1, min(image[1:], default=1) // 14)
        return (Shifted(count, pixels, image if self.series.scenario == "task" else ()),) if count else ()

    def outcome(self, results: analysis.Results) -> tuple[str, ...]:
        end = results.named.get(RESULT)
        if end is None or end not in set(results.paths["name"]):
            return ("Not all tasks have been learned yet.",)
        found = results.tasks
        if found.empty:
            return ("Tasks without test inputs were learned, so no accuracy is known.",)
        series = analysis.task_series(results, end, known=[KNOWN] if KNOWN in set(found["task"]) else [])
        said, lost, unlearned = [], [], list[str]()
        for task, network in series.learned_at.items():
            column = series.accuracies[task]
            before, now = float(column[network]), float(column.iloc[-1])
            start = f", base network {float(column.iloc[0]):.1%}" if task != KNOWN else ""
            said.append(f"{task!r}: {now:.2%} at the end, {before:.2%} when it was learned{start}.")
            if task != KNOWN and before <= LEARNED:
                unlearned.append(repr(task))
            if before - now > self.allowance:
                lost.append(f"{task!r} ({100 * (before - now):.1f} points)")
        verdict = f"No task lost more than the allowance of {self.allowance:.1%}."
        if lost:
            verdict = (
                f"More than the allowance of {self.allowance:.1%} was lost on {', '.join(lost)}: store more inputs "
                "(num_stored), take more steps (num_steps) or a smaller beta, or allow more."
            )
            if self.series.scenario == "shared" and self.series.largest > self.series.num_outputs:
                # Accuracy when a task was learned is among fewer classes than at the end.
                verdict += " Some of it may be confusion with classes that came later, as in training on all at once."
        if unlearned:
            verdict += (
                f" Hardly learned: {', '.join(unlearned)}; take more steps (budget or num_steps), or a larger beta or "
                "rate."
            )
        return (f"Mean accuracy on all {len(said)} tasks {series.average_accuracy:.2%}.", *said, verdict)


def _task(name: str, given: Any) -> Task:
    try:
        return Task.of(given)
    except DataError as error:
        raise DataError(f"task {name!r}: {error}") from error


def _slug(name: str) -> str:
    """Name of the path that learns a task."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:64] or "task"


@recipe("learn", LearningChoices)
@checked
def learn(
    module: nn.Module,
    tasks: Mapping[str, Any],
    data: Any,
    *,
    scenario: Scenario = "shared",
    num_stored: int = 500,
    allowance: float = 0.02,
    budget: Given = None,
    seed: Seed = 0,
    **overrides: Any,
) -> Recipe:
    """Teach a network further tasks, one after the other, without losing what it knew.

    Each task is learned along a path from the end of the one before, while the outputs stay on stored inputs of what
    was known before, which need no labels. A short trial on the first task chooses the weight of its loss and the
    learning rate, judged on held-out inputs; `LearningChoices` lists all settings, and each can be given by name. The
    network after the last task is the result "learned". Accuracies on the test inputs of all tasks, and how much of the
    earlier ones was lost, are reported.

    Args:
        module: classifier that knows the inputs of `data`, in evaluation mode; not changed.
        tasks: labelled examples of the further tasks by name, in the order in which they are learned: each a `Task`, or
            what `Task.of` takes. Inputs have the shape and dtype of those of `data`; several inputs, such as token IDs
            and attention mask, are given as dictionaries in both.
        data: `Data`, or what `Data.of` takes: anchors and held-out inputs of what is known;
            labelled test inputs are only reported.
        scenario: "shared" for one head, to which outputs are added for labels beyond those that it has; "task" for a
            head of each task, whose labels begin at 0: inputs of the results carry the number of their task
            (`fip.networks.MultiHead`).
        num_stored: inputs that are stored in all, of which every earlier task has an equal part; at least one for each.
        allowance: largest loss of accuracy on an earlier task, as a fraction, above 0 and below 1.
        budget: time for trial and paths, such as "10 min", "90 s" or a number of seconds, or {"steps": N} for each
            task; ten minutes by default.
        seed: seed of all random numbers.
        overrides: settings of `LearningChoices` by name.

    Returns:
        The recipe; nothing is measured before its study is needed.

    Raises:
        UsageError: for a number out of range, an unknown setting, or no tasks.
        DataError: for tasks whose inputs are of another shape or dtype, or have other names.
    """
    data = Data.of(data)
    if not 0 < allowance < 1:
        raise UsageError(
            f"allowance is a fraction such as 0.02 for two points, above 0 and below 1; {allowance} was given"
        )
    given = overrides_of(LearningChoices, "learn", overrides)
    LearningChoices(**given)
    made = {name: _task(name, given) for name, given in tasks.items()}
    series = Series(Subject(module, data), made, scenario, num_stored, seed)
    chosen = Budget.of(budget)
    plain: dict[str, Plain] = {
        "tasks": ", ".join(tasks),
        "scenario": scenario,
        "num_stored": num_stored,
        "allowance": allowance,
        "budget": chosen.text,
        "seed": seed,
        **{f"{GIVEN}{name}": value for name, value in given.items()},
    }
    return Recipe("learn", Learning(series, allowance, chosen, given), plain)
