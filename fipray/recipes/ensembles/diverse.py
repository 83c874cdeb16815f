"""Recipe `diverse-ensemble`: members that predict alike and differ as much as an allowance permits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import nn

from fipray import analysis
from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.networks import Compute
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
from fipray.recipes.anchors import AnchorChoice
from fipray.recipes.budget import Budget, Given
from fipray.recipes.catalogue import overrides_of, recipe
from fipray.recipes.ensembles.choices import DiverseChoices
from fipray.recipes.ensembles.task import ENSEMBLE, AttackNames, Task, evaluated
from fipray.recipes.ensembles.trial import Trial
from fipray.recipes.machine import Machine
from fipray.recipes.recipe import Chosen, Plan, Recipe, Setting
from fipray.recipes.record import Plain
from fipray.recipes.rules import FirstWithin
from fipray.recipes.subject import Subject
from fipray.robustness import ThreatModel
from fipray.study import Data, EnsembleSpec, LogUniform, PathSpec
from fipray.study.evaluation import BASE
from fipray.study.measures import ACCURACY_LOSS
from fipray.study.referenced import few, selected

Diversity = Literal["outputs", "gradients", "weights"]
KIND = "diverse"
_SAID = {
    "": "",
    "-with-base": " and the base network",
    "-with-base-twice": " and the base network, which counts twice",
}
FEWEST_TESTS = 100  # labelled test inputs below which none is taken to judge by


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

    @property
    def num_parallel(self) -> int:
        return self.task.num_parallel

    def computed(self, compute: Compute) -> DiverseEnsemble:
        return replace(self, task=replace(self.task, subject=self.task.subject.computed(compute)))

    def choose(self, machine: Machine) -> Chosen:
        self.task.check()
        with machine.used():
            trial = Trial(self.task, machine, self._short, fewest=2)
            choices, reasons = trial.choices(DiverseChoices())
        return Chosen(asdict(choices), (*reasons, *self.task.subject.remarks))

    def plan(self, values: Mapping[str, Plain]) -> Plan:
        choices = DiverseChoices(**values)  # type: ignore[arg-type]
        objective, settings = self._short(choices)
        names = tuple(f"{KIND}-{number}" for number in range(choices.members))
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
        ensembles = mixtures(names, rounds)
        return Plan(
            paths=paths,
            results={ENSEMBLE: self._result(names, ensembles)},
            anchors=AnchorChoice(choices.num_anchors, seed=self.task.seed),
            ensembles=ensembles,
            evaluation=self.task.evaluation(choices.num_examples),
            geometry=self.task.subject.geometry,
            measures={ACCURACY_LOSS: self.task.measure()},
            space={
                "radius.initial": LogUniform(choices.radius / 4, choices.radius * 4),
                "stepper.stepper.beta": LogUniform(choices.beta / 5, choices.beta * 5),
            },
            objectives={"objective_value": "min", ACCURACY_LOSS: "min"},
            settings={"radius.initial": Setting("radius"), "stepper.stepper.beta": Setting("beta")},
        )

    def _result(self, names: tuple[str, ...], ensembles: tuple[EnsembleSpec, ...]) -> str | FirstWithin:
        alone = names if len(names) == 1 else ()
        candidates = (*alone, *(ensemble.name for ensemble in ensembles))
        if self.data.held_out_labels is None:
            return candidates[0]  # no labels say which of them is better
        return FirstWithin(candidates, 0.0, "nll_loss_held_out")

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
        low, high = np.quantile(few(self.data.anchors, 1000).astype(np.float64), (0.05, 0.95))
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
            return (*said, "Without labels nothing says whether the ensemble is better than the base network.")
        base, own = found["base"], found[ENSEMBLE]
        network = results.named[ENSEMBLE]
        # A single member, or the base network alone, has none to differ from.
        members = KIND if network == BASE or network.startswith(f"{KIND}-w") else network
        measured = results.measures[results.measures["name"] == members]
        lower = "lower" if own["nll"] < base["nll"] else "no lower"
        return (
            self.task.composition(
                network,
                KIND,
                _SAID,
                f"no mixture lowers the negative log-likelihood on {len(self.data.held_out):,} held-out inputs",
            ),
            f"Clean accuracy on all test inputs: {own['clean']:.2%}, base network {base['clean']:.2%}.",
            *self.task.beyond(own, base),
            f"Negative log-likelihood {own['nll']:.4f}, base network {base['nll']:.4f}: {lower}; expected calibration "
            f"error {own['ece']:.4f}, base network {base['ece']:.4f}.",
            *(
                f"The diverse members disagree on {float(each):.2%} of the test inputs."
                for each in measured["disagreement"].dropna()
            ),
            *said,
        )


def mixtures(names: tuple[str, ...], rounds: int) -> tuple[EnsembleSpec, ...]:
    """Ensembles of which the result is the first that is better than the base network.

    Args:
        names: names of the members' paths.
        rounds: rounds in which the members are traced together.

    Returns:
        The members alone, where there are several, and with the base network among them once and twice.
    """
    return tuple(
        EnsembleSpec(f"{KIND}{added}", (*(BASE,) * count, *names), rounds=0 if count else rounds)
        for count, added in enumerate(_SAID)
        if count or len(names) > 1
    )


def with_labels(data: Data) -> Data:
    """Take labelled test inputs for held-out inputs, where these have no labels.

    Args:
        data: given data.

    Returns:
        Data whose held-out inputs are up to 2,000 and at most half of the test inputs, which are no longer test inputs;
        the given data where they have labels, or where there are fewer than a hundred test inputs.
    """
    if data.held_out_labels is not None or data.test_inputs is None or data.test_labels is None:
        return data
    total = len(data.test_inputs)
    if total < FEWEST_TESTS:
        return data
    is_held_out = np.zeros(total, dtype=bool)
    is_held_out[np.random.default_rng(0).permutation(total)[: min(total // 2, 2000)]] = True
    return replace(
        data,
        held_out=selected(data.test_inputs, is_held_out),
        held_out_labels=data.test_labels[is_held_out],
        test_inputs=selected(data.test_inputs, ~is_held_out),
        test_labels=data.test_labels[~is_held_out],
    )


@recipe("diverse-ensemble", DiverseChoices)
@checked
def diverse_ensemble(
    module: nn.Module,
    data: Any,
    *,
    diversity: Diversity = "outputs",
    allowance: float = 0.02,
    epsilon: float = 8 / 255,
    norm: Literal["linf", "l2"] = "linf",
    attacks: AttackNames = "pgd",
    budget: Given = None,
    seed: Seed = 0,
    **overrides: Any,
) -> Recipe:
    """Make an ensemble of members that differ as much as the allowance permits, without labels.

    Members are traced together in rounds. The weight of the objective grows until a member loses the allowance of
    accuracy on held-out inputs, or is a thousand times its first value (`fip.steppers.WithinAllowance`). The result
    "ensemble" averages the probabilities of the members, of these and the base network, or with it twice: the first of
    these whose negative log-likelihood on held-out inputs is lower than the base network's by at least a standard
    error, else it is the base network. Where `data` has no `held_out_labels`, up to half of the labelled test inputs,
    drawn at random, take the place of the held-out inputs and are not reported; without any labels the result is the
    members. Robust accuracy is measured for comparison: diversity alone is no robustness, see `robust_ensemble`.

    Args:
        module: trained classifier, in evaluation mode.
        data: `Data`, or what `Data.of` takes: anchors and held-out inputs within the bounds;
            labelled held-out or test inputs.
        diversity: "outputs" off the data, "gradients" with respect to the input, or "weights".
        allowance: largest loss of clean accuracy of a member, as a fraction, above 0 and below 1.
        epsilon: bound of the attacks, in units of the inputs.
        norm: "linf" or "l2".
        attacks: "pgd" (PGD and targeted PGD) or "autoattack" (PGD and AutoAttack, slower), on the test inputs.
        budget: time for trial and paths, such as "10 min", "90 s" or a number of seconds, or {"steps": N} for each
            member; ten minutes by default. Attacks come on top, on as many test inputs as take about as long again.
        seed: seed of all random numbers.
        overrides: settings of `DiverseChoices` by name, such as `members`.

    Returns:
        The recipe; nothing is measured before its study is needed.

    Raises:
        UsageError: for a number out of range or an unknown setting.
    """
    data = Data.of(data)
    given = overrides_of(DiverseChoices, "diverse-ensemble", overrides)
    DiverseChoices(**given)
    model = ThreatModel(norm, epsilon, *data.bounds)
    task = Task(Subject(module, with_labels(data)), allowance, model, attacks, Budget.of(budget), seed, given)
    design = DiverseEnsemble(task, diversity)
    return Recipe("diverse-ensemble", design, {**task.parameters, "diversity": diversity})
