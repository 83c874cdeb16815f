"""Recipe `prune`: a sparse network that predicts as the base network does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from fipray import analysis
from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import UsageError
from fipray.networks import Compute
from fipray.paths import Guarded, SaveAt, Scheduled
from fipray.recipes.anchors import AnchorChoice
from fipray.recipes.budget import Budget, Given
from fipray.recipes.catalogue import overrides_of, recipe
from fipray.recipes.machine import Machine
from fipray.recipes.pruning.choices import PruningChoices
from fipray.recipes.pruning.task import PATTERNS, PatternName, Task
from fipray.recipes.pruning.trial import Trial
from fipray.recipes.recipe import Chosen, Plan, Recipe, Setting
from fipray.recipes.record import GIVEN, Plain
from fipray.recipes.rules import SparsestWithin
from fipray.recipes.subject import Subject
from fipray.study import AccuracyLoss, Choice, Data, HeldOutAccuracy, LogUniform, PathSpec, Uniform
from fipray.study.measures import ACCURACY_LOSS, AGREEMENT, HELD_OUT_ACCURACY, AnyMeasure
from fipray.study.tensors import Tensors

_LABELS = "A base network that is too certain makes the estimate too large: with held_out_labels, accuracy is measured."
PATH, FALLBACK, RESULT = "pruning", "pruning-less", "pruned"


@dataclass(frozen=True, eq=False)
class Pruning:
    """Design of the recipe `prune`.

    Args:
        task: what is to be pruned, and how.
    """

    task: Task

    @property
    def module(self) -> nn.Module:
        return self.task.subject.module

    @property
    def data(self) -> Data:
        return self.task.data

    @property
    def num_parallel(self) -> int:
        return 1

    def computed(self, compute: Compute) -> Pruning:
        return replace(self, task=replace(self.task, subject=self.task.subject.computed(compute)))

    def choose(self, machine: Machine) -> Chosen:
        self.task.check()
        with machine.used():
            choices, reasons = Trial(self.task, machine).choices()
        return Chosen(asdict(choices), (*reasons, *self.task.subject.remarks))

    def plan(self, values: Mapping[str, Plain]) -> Plan:
        choices = PruningChoices(**values)  # type: ignore[arg-type]
        schedule = Scheduled(choices.radius)
        guarded = Guarded(schedule, choices.guard, choices.guard_every) if choices.guard > 0 else None
        path = PathSpec(
            PATH,
            self.task.objective(choices.ramp),
            stepper=self.task.stepper(choices),
            radius=guarded or schedule,
            num_steps=choices.num_steps,
            batch_size=choices.batch_size,
            save_at=SaveAt(choices.num_points),
            seed=self.task.seed,
        )
        lower = replace(
            path,
            name=FALLBACK,
            objective=self.task.objective(choices.ramp, choices.fallback),
            num_steps=max(round(choices.share * choices.num_steps), 1),
        )
        paths = (path, lower) if choices.fallback > 0 else (path,)
        measure, rule = self._rule(tuple(one.name for one in paths))
        inner = "radius.control" if guarded else "radius"
        agreement = {AGREEMENT: self.task.subject.agreement(self.num_held_out)}
        judges: dict[str, AnyMeasure] = {
            HELD_OUT_ACCURACY: HeldOutAccuracy(self.num_held_out),
            ACCURACY_LOSS: AccuracyLoss(self.num_held_out),
        }
        return Plan(
            paths=paths,
            results={RESULT: rule},
            anchors=AnchorChoice(choices.num_anchors, choices.mirrored, self.task.seed),
            geometry=self.task.subject.geometry,
            measures={**agreement, **({measure: judges[measure]} if measure in judges else {})},
            space={
                f"{inner}.initial": LogUniform(choices.radius / 4, choices.radius * 4),
                "objective.ramp": Uniform(0.3, 0.9),
                "batch_size": Choice(tuple(sorted({max(choices.batch_size // 2, 1), choices.batch_size}))),
            },
            objectives={HELD_OUT_ACCURACY if self.has_labels else AGREEMENT: "max"},
            settings={
                f"{inner}.initial": Setting("radius"),
                "objective.ramp": Setting("ramp"),
                "batch_size": Setting("batch_size"),
            },
        )

    @property
    def num_held_out(self) -> int:
        """Number of held-out inputs by which networks are judged."""
        return min(len(self.data.held_out), 2000)

    @property
    def has_labels(self) -> bool:
        """Whether accuracy itself can be judged on held-out inputs."""
        return self.task.subject.is_classifier and self.data.held_out_labels is not None

    def _rule(self, paths: tuple[str, ...]) -> tuple[str, SparsestWithin]:
        """Measure by which a network is within the allowance, and the rule that names the result."""
        if self.has_labels:
            return HELD_OUT_ACCURACY, SparsestWithin(paths, HELD_OUT_ACCURACY, least=self._least_accuracy)
        if self.task.subject.is_classifier and self.task.subject.base_outputs.ndim == 2:
            return ACCURACY_LOSS, SparsestWithin(paths, ACCURACY_LOSS, most=self.task.allowance)
        return AGREEMENT, SparsestWithin(paths, AGREEMENT, least=round(1 - self.task.allowance, 12))

    @cached_property
    def _least_accuracy(self) -> float:
        network, data = self.task.subject.network, Tensors(self.data, "cpu")
        labels = data.held_out_labels
        assert labels is not None
        base = HeldOutAccuracy(self.num_held_out).measured_on(network, network.weights, data.held_out(()), labels)
        return round(base - self.task.allowance, 12)

    def outcome(self, results: analysis.Results) -> tuple[str, ...]:
        found = results.named.get(RESULT)
        if found is None:
            return ("The path has not ended yet.",)
        measure, rule = self._rule(())
        rows = results.variants.merge(
            results.point_measures.query("measure == @measure", local_dict={"measure": measure})[
                ["path_id", "step", "value"]
            ],
            on=["path_id", "step"],
        ).sort_values("target_sparsity")
        said = [f"{row.target_sparsity:.0%} sparsity: {row.value:.2%}" for row in rows.itertuples()]
        name = {
            HELD_OUT_ACCURACY: "accuracy",
            ACCURACY_LOSS: "loss of accuracy (estimated by the base network's probabilities, a standard error added)",
            AGREEMENT: "agreement with the base network",
        }[measure]
        asked = f"at most {rule.most:.2%}" if rule.least is None else f"at least {rule.least:.2%}"
        listed = f"On {self.num_held_out:,} held-out inputs, {name} at {', at '.join(said)}; {asked} is asked for."
        labels = (_LABELS,) if measure == ACCURACY_LOSS else ()
        within = f"within the allowance of {self.task.allowance:.1%}"
        reached = rows[rows["network"] == found]["target_sparsity"]
        if reached.empty:
            return (
                f"No network on the paths is {within}, so {RESULT!r} is the base network.",
                listed,
                "Allow more, give more time (budget) or more anchors, or ask for less sparsity.",
                *labels,
            )
        level = float(reached.iloc[0])
        if level < self.task.sparsity - 1e-9:
            return (
                f"{self.task.sparsity:.0%} sparsity was not reached {within} in "
                f"{self.task.budget.text}: {RESULT!r} is the network at {level:.0%}.",
                listed,
                *labels,
            )
        zeros = float(rows.loc[rows["network"] == found, "sparsity"].iloc[0])
        # Patterns leave out layers that they do not fit, and no pattern touches biases and norms.
        return (
            f"{RESULT!r} has the {level:.0%} sparsity that was asked for, in the layers that take part; of all weights "
            f"{zeros:.1%} are zero.",
            listed,
        )


@recipe("prune", PruningChoices)
@checked
def prune(
    module: nn.Module,
    data: Any,
    *,
    sparsity: float | None = None,
    pattern: PatternName = "unstructured",
    allowance: float = 0.02,
    budget: Given = None,
    seed: Seed = 0,
    **overrides: Any,
) -> Recipe:
    """Prune a network so that it predicts as before, without labels.

    A short trial chooses the radius, batch size, number of steps and the rest from the network, the data and the
    budget; `PruningChoices` lists all settings, and each can be given by name. What is fixed: the pruning mask keeps
    the weights of largest magnitude, and the sparsity rises along a cubic ramp. The result "pruned" is the sparsest
    network of the paths that is within the allowance, judged on held-out inputs: by accuracy where
    `Data.held_out_labels` are given, else by its loss as the base network's own probabilities estimate it
    (`fip.study.AccuracyLoss`), and for classes of each position by agreement with the base network. Regression networks
    are judged by the fraction of the variance of their outputs that is kept.

    Args:
        module: trained network, in evaluation mode.
        data: `Data`, or what `Data.of` takes: anchors and held-out inputs; labelled test inputs are only reported.
        sparsity: fraction of zeros, above 0 and below 1, of what the pattern counts; None for 0.9 unstructured and 0.5
            else.
        pattern: "unstructured", "2:4" or "channels".
        allowance: largest loss of accuracy (or of agreement), as a fraction, above 0 and below 1.
        budget: time for trial and path, such as "10 min", "90 s" or a number of seconds, or {"steps": N}; ten minutes
            by default. Measuring accuracy on test inputs comes on top.
        seed: seed of all random numbers.
        overrides: settings of `PruningChoices` by name.

    Returns:
        The recipe; nothing is measured before its study is needed.

    Raises:
        UsageError: for a number out of range or an unknown setting.
    """
    data = Data.of(data)
    sparsity = PATTERNS[pattern][1] if sparsity is None else sparsity
    if not 0 < sparsity < 1:
        raise UsageError(f"sparsity is a fraction of the weights, above 0 and below 1; {sparsity} was given")
    if not 0 < allowance < 1:
        raise UsageError(
            f"allowance is a fraction such as 0.02 for two points, above 0 and below 1; {allowance} was given"
        )
    given = overrides_of(PruningChoices, "prune", overrides)
    PruningChoices(**given)
    task = Task(Subject(module, data), sparsity, pattern, allowance, Budget.of(budget), seed, given)
    plain: dict[str, Plain] = {
        "sparsity": sparsity,
        "pattern": pattern,
        "allowance": allowance,
        "budget": task.budget.text,
        "seed": seed,
        **{f"{GIVEN}{name}": value for name, value in given.items()},
    }
    return Recipe("prune", Pruning(task), plain)
