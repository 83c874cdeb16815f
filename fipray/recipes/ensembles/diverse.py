"""Recipe `diverse-ensemble`: members that predict alike and differ as much as an allowance permits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from fipray import analysis
from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.paths import (
    FirstOrder,
    GradientDiversity,
    Objective,
    OutputDiversity,
    SaveAt,
    Scheduled,
    Settings,
    WeightDiversity,
    WithinAllowance,
)
from fipray.recipes.budget import Budget, Given
from fipray.recipes.catalogue import overrides_of, recipe
from fipray.recipes.ensembles.choices import DiverseChoices
from fipray.recipes.ensembles.task import ENSEMBLE, AttackNames, Task, evaluated
from fipray.recipes.ensembles.trial import Trial
from fipray.recipes.machine import Machine
from fipray.recipes.recipe import Chosen, Plan, Recipe
from fipray.recipes.record import Plain
from fipray.recipes.subject import Subject
from fipray.robustness import ThreatModel
from fipray.study import Data, EnsembleSpec, PathSpec
from fipray.study.measures import ACCURACY_LOSS

Diversity = Literal["outputs", "gradients", "weights"]


@dataclass(frozen=True, eq=False)
class DiverseEnsemble:
    """Design of the recipe `diverse-ensemble`.

    Args:
        task: ensemble that is asked for.
        diversity: in what members differ.
    """

    task: Task
    diversity: Diversity

    @property
    def module(self) -> nn.Module:
        return self.task.module

    @property
    def data(self) -> Data:
        return self.task.data

    def choose(self, machine: Machine) -> Chosen:
        self.task.check()
        with machine.used():
            trial = Trial(self.task.bench(machine), self.task.budget, self.task.overrides, self._short)
            choices, reasons = trial.choices(DiverseChoices())
        return Chosen(asdict(choices), (*reasons, *self.task.subject.remarks))

    def plan(self, values: Mapping[str, Plain]) -> Plan:
        choices = DiverseChoices(**values)  # type: ignore[arg-type]
        objective, settings = self._short(choices)
        names = tuple(f"diverse-{number}" for number in range(choices.members))
        rounds = min(choices.rounds, choices.num_steps) if len(names) > 1 else 0
        paths = tuple(
            PathSpec(
                name,
                objective,
                **{
                    **vars(settings),
                    "events": (self.task.limit,),
                    "save_at": SaveAt(1),
                    "seed": 1000 * self.task.seed + number,
                },
            )
            for number, name in enumerate(names)
        )
        members = EnsembleSpec(ENSEMBLE, names, rounds=rounds)
        return Plan(
            paths=paths,
            results={ENSEMBLE: ENSEMBLE if len(names) > 1 else names[0]},
            ensembles=(members,) if len(names) > 1 else (),
            evaluation=self.task.evaluation,
            geometry=self.task.subject.geometry,
            measures={ACCURACY_LOSS: self.task.measure()},
        )

    def _short(self, choices: DiverseChoices) -> tuple[Objective, Settings]:
        stepper = FirstOrder(choices.beta, batch_statistics=choices.batch_statistics)
        return self._objective, Settings(
            # The allowance is sought from early on: nothing else sets how far members part.
            stepper=WithinAllowance(stepper, self.task.allowance, after=0.2, num_looks=30),
            radius=Scheduled(choices.radius, warmup=0.1),
            num_steps=choices.num_steps,
            batch_size=choices.batch_size,
            seed=self.task.seed,
        )

    @property
    def _objective(self) -> Objective:
        low, high = np.quantile(self.data.anchors[:1000].astype(np.float64), (0.05, 0.95))
        noise = float(f"{max(float(high - low), 1e-3) / 4:.2g}")
        match self.diversity:
            case "outputs":
                return OutputDiversity(sigma=noise)
            case "gradients":
                return GradientDiversity(noise=noise / 4)
            case _:
                return WeightDiversity()

    def outcome(self, results: analysis.Results) -> tuple[str, ...]:
        said, found = (self.task.held_back(results),), evaluated(results)
        if not found:
            return said
        base, own = found["base"], found[ENSEMBLE]
        measured = results.measures[results.measures["name"] == ENSEMBLE].iloc[0]
        lower = "lower" if own["nll"] < base["nll"] else "no lower"
        return (
            f"Clean accuracy on all test inputs: {own['clean']:.2%}, base network {base['clean']:.2%}.",
            f"Negative log-likelihood {own['nll']:.4f}, base network {base['nll']:.4f}: {lower}; expected calibration "
            f"error {own['ece']:.4f}, base network {base['ece']:.4f}.",
            f"Members disagree on {float(measured['disagreement']):.2%} of the test inputs.",
            *said,
        )


@recipe("diverse-ensemble", DiverseChoices)
@checked
def diverse_ensemble(
    module: nn.Module,
    data: Data,
    *,
    diversity: Diversity = "outputs",
    allowance: float = 0.02,
    epsilon: float = 8 / 255,
    norm: Literal["linf", "l2"] = "linf",
    attacks: AttackNames = "pgd",
    num_examples: int = 500,
    budget: Given = None,
    seed: Seed = 0,
    **overrides: Any,
) -> Recipe:
    """Make an ensemble of members that differ as much as the allowance permits, without labels.

    Members are traced together in rounds. The weight of the objective grows until a member loses the allowance of
    accuracy on held-out inputs, or is a thousand times its first value (`fip.steppers.WithinAllowance`). The result
    "ensemble" averages the members' probabilities. Robust accuracy is measured for comparison: diversity alone is no
    robustness, see `robust_ensemble`.

    Args:
        module: trained classifier, in evaluation mode.
        data: anchors and held-out inputs within the bounds; labelled test inputs are only reported.
        diversity: "outputs" off the data, "gradients" with respect to the input, or "weights".
        allowance: largest loss of clean accuracy of a member, as a fraction, above 0 and below 1.
        epsilon: bound of the attacks, in units of the inputs.
        norm: "linf" or "l2".
        attacks: "pgd" (PGD and targeted PGD) or "autoattack" (PGD and AutoAttack, slower), on the test inputs.
        num_examples: number of test inputs that are attacked.
        budget: time for trial and paths, such as "10 min", "90 s" or a number of seconds, or {"steps": N} for each
            member; ten minutes by default. Attacks on the test inputs come on top.
        seed: seed of all random numbers.
        overrides: settings of `DiverseChoices` by name, such as `members`.

    Returns:
        The recipe; nothing is measured before its study is needed.

    Raises:
        UsageError: for a number out of range or an unknown setting.
    """
    given = overrides_of(DiverseChoices, "diverse-ensemble", overrides)
    DiverseChoices(**given)
    model = ThreatModel(norm, epsilon, *data.bounds)
    task = Task(Subject(module, data), allowance, model, attacks, num_examples, Budget.of(budget), seed, given)
    design = DiverseEnsemble(task, diversity)
    return Recipe("diverse-ensemble", design, {**task.parameters, "diversity": diversity})
