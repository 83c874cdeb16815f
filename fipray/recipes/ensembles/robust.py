"""Recipe `robust-ensemble`: an ensemble that withstands adversarial inputs and predicts as the base network does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torch import nn

from fipray import analysis
from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.networks import Compute
from fipray.paths import AdversarialDistillation, Adversary, FirstOrder, SaveAt, Scheduled, Settings
from fipray.printable import epsilon_text
from fipray.recipes.anchors import AnchorChoice
from fipray.recipes.budget import Budget, Given
from fipray.recipes.catalogue import overrides_of, recipe
from fipray.recipes.ensembles.choices import RobustChoices
from fipray.recipes.ensembles.task import ENSEMBLE, AttackNames, Task, evaluated
from fipray.recipes.ensembles.trial import Trial
from fipray.recipes.machine import Machine
from fipray.recipes.recipe import Chosen, Plan, Recipe, Setting
from fipray.recipes.record import Plain
from fipray.recipes.rules import FirstMeasured, FirstWithin
from fipray.recipes.subject import Subject
from fipray.recipes.variations import variations_of
from fipray.robustness import ThreatModel
from fipray.study import AccuracyLoss, Choice, Data, EnsembleSpec, LogUniform, PathSpec, RobustAgreement
from fipray.study.evaluation import BASE
from fipray.study.measures import ACCURACY_LOSS, ROBUST_AGREEMENT

KIND = "robust"
BASE_WEIGHTS = {"-with-base": 1 / 3, "-mostly-base": 2 / 3}
"""Weight of the base network in mixtures with it, by the ends of their names.

At one half or more a base network that is certain overrules the members wherever it is fooled. With a third it does so
only where their own probability exceeds the next one's by less than a half.
"""
_LOSSES = {"": "loss_alone", "-with-base": "loss_with_base", "-mostly-base": ACCURACY_LOSS}
"""Measures of the members alone and of the mixtures. By the last one members are led back to the base network: a single
network further away may still be a good part of a mixture, and halfway back it is often neither robust nor accurate."""
BELIEF = 0.5
"""How far the base network's own estimate of a loss counts. Where it and a member disagree it is less often right than
it says: the members mend some of its mistakes. On MNIST networks (all images, few, and corrupted ones) its estimate for
members was 1.1 to 5 points above their loss at the epsilon that was asked for, 0.6 to 3 at four times as much."""
_SAID = {
    "-with-base": " and the base network, which has a third of the weight",
    "-mostly-base": " and the base network, which has two thirds of the weight",
}


@dataclass(frozen=True, eq=False)
class RobustEnsemble:
    """Design of the recipe `robust-ensemble`.

    Args:
        task: ensemble that is asked for.
    """

    task: Task

    @property
    def module(self) -> nn.Module:
        return self.task.module

    @property
    def data(self) -> Data:
        return self.task.data

    @property
    def num_parallel(self) -> int:
        return self.task.num_parallel

    def computed(self, compute: Compute) -> RobustEnsemble:
        return replace(self, task=replace(self.task, subject=self.task.subject.computed(compute)))

    def choose(self, machine: Machine) -> Chosen:
        self.task.check()
        with machine.used():
            trial = Trial(self.task, machine, self._short)
            choices, reasons = trial.choices(RobustChoices())
        return Chosen(asdict(choices), (*reasons, *self.task.subject.remarks))

    def plan(self, values: Mapping[str, Plain]) -> Plan:
        choices = RobustChoices(**values)  # type: ignore[arg-type]
        objective, settings = self._short(choices)
        names = tuple(f"{KIND}-{number}" for number in range(choices.members))
        paths = tuple(
            PathSpec(
                name,
                objective,
                **{
                    **vars(settings),
                    "events": (self.task.limit,),
                    "save_at": SaveAt(1, solver_state=False),
                    "seed": 1000 * self.task.seed + number,
                },
            )
            for number, name in enumerate(names)
        )
        ensembles = candidates(names)
        return Plan(
            paths=paths,
            results={ENSEMBLE: self._result(names, ensembles)},
            anchors=AnchorChoice(choices.num_anchors, seed=self.task.seed),
            ensembles=ensembles,
            evaluation=self.task.evaluation(choices.num_examples),
            geometry=self.task.subject.geometry,
            measures=self._measures,
            space={
                "radius.initial": LogUniform(choices.radius / 4, choices.radius * 4),
                "stepper.beta": LogUniform(choices.beta / 5, choices.beta * 5),
                "objective.adversary.num_steps": Choice(tuple(sorted({1, choices.adversary_steps}))),
            },
            objectives={ROBUST_AGREEMENT: "max", ACCURACY_LOSS: "min"},
            judges={ROBUST_AGREEMENT: RobustAgreement(self.task.threat_model)},
            settings={
                "radius.initial": Setting("radius"),
                "stepper.beta": Setting("beta"),
                "objective.adversary.num_steps": Setting("adversary_steps"),
            },
        )

    @property
    def _measures(self) -> dict[str, AccuracyLoss]:
        """Loss of the mixture for which members are led back, and of the others where nothing is evaluated."""
        weights = {_LOSSES[ending]: weight for ending, weight in {"": 0.0, **BASE_WEIGHTS}.items()}
        measures = {name: self.task.measure(weight) for name, weight in weights.items()}
        return measures if self.task.data.test_inputs is None else {ACCURACY_LOSS: measures[ACCURACY_LOSS]}

    def _result(self, names: tuple[str, ...], ensembles: tuple[EnsembleSpec, ...]) -> FirstMeasured | FirstWithin:
        alone = names if len(names) == 1 else ()
        networks = (*alone, *(ensemble.name for ensemble in ensembles))
        if self.task.data.test_inputs is not None:
            return FirstWithin(networks, self.task.most)
        return FirstMeasured(dict(zip(networks, _LOSSES.values(), strict=True)), names, self.task.most)

    def _short(self, choices: RobustChoices) -> tuple[AdversarialDistillation, Settings]:
        """Objective and settings of a member's path, or of a short one in a trial."""
        epsilon = choices.adversary_epsilon * self.task.threat_model.epsilon
        adversary = Adversary(
            replace(self.task.threat_model, epsilon=epsilon), choices.adversary_steps, remembers=choices.remembers
        )
        # A quarter of the batch holds the clean outputs: the objective itself holds them on inputs beside these.
        stepper = FirstOrder(
            choices.beta, held=0.25, batch_statistics=choices.batch_statistics, orthogonal=choices.orthogonal
        )
        return AdversarialDistillation(adversary), Settings(
            stepper=stepper,
            radius=Scheduled(choices.radius, warmup=0.1),
            num_steps=choices.num_steps,
            batch_size=choices.batch_size,
            max_seconds=choices.max_seconds or None,
            variations=variations_of(choices.pixels, choices.mirrored),
            averaging=choices.averaging,
            seed=self.task.seed,
        )

    def outcome(self, results: analysis.Results) -> tuple[str, ...]:
        said, found = (self.task.held_back(results),), evaluated(results)
        if not found:
            return said
        base, own = found["base"], found[ENSEMBLE]
        model = self.task.threat_model
        return (
            self.task.composition(results.named.get(ENSEMBLE, ""), KIND, _SAID, "nothing else is within the allowance"),
            f"Robust accuracy ({model.norm}, epsilon {epsilon_text(model.epsilon)}, worst of all attacks on "
            f"{own['num_examples']:,} test inputs): {own['robust']:.1%}, base network {base['robust']:.1%}.",
            f"Clean accuracy on all test inputs: {own['clean']:.2%}, base network {base['clean']:.2%}.",
            *self.task.beyond(own, base),
            *said,
            *_doubts(own, base),
        )


def candidates(names: tuple[str, ...]) -> tuple[EnsembleSpec, ...]:
    """Ensembles of which the result is the first within the allowance.

    Args:
        names: names of the members' paths.

    Returns:
        The members alone, where there are several, and mixtures of them with the base network.
    """
    alone = (EnsembleSpec(KIND, names),) if len(names) > 1 else ()
    return alone + tuple(
        EnsembleSpec(f"{KIND}{added}", (BASE, *names), weights=(weight, *((1 - weight) / len(names),) * len(names)))
        for added, weight in BASE_WEIGHTS.items()
    )


def _doubts(own: Mapping[str, float], base: Mapping[str, float]) -> tuple[str, ...]:
    """Sentence for a gain that is none, or too small to be told from none on so many test inputs."""
    gain = own["robust"] - base["robust"]
    variance = sum(each["robust"] * (1 - each["robust"]) for each in (own, base)) / own["num_examples"]
    if gain <= 0:
        return (_NO_GAIN,)
    return (_SMALL_GAIN,) if gain < 2 * variance**0.5 else ()


_ADVICE = "allow more, give more time (budget) or more anchors, or ask for a smaller epsilon."
_NO_GAIN = f"The ensemble is no more robust than the base network: {_ADVICE}"
_SMALL_GAIN = f"The gain in robust accuracy is within two standard errors of the measurement: {_ADVICE}"


@recipe("robust-ensemble", RobustChoices)
@checked
def robust_ensemble(
    module: nn.Module,
    data: Any,
    *,
    epsilon: float = 8 / 255,
    norm: Literal["linf", "l2"] = "linf",
    allowance: float = 0.02,
    attacks: AttackNames = "pgd",
    budget: Given = None,
    seed: Seed = 0,
    **overrides: Any,
) -> Recipe:
    """Make an ensemble robust against adversarial inputs without labels, at nearly the accuracy of the base network.

    Each member follows a path along which it learns to predict on adversarial inputs what the base network predicts on
    clean ones (`fip.objectives.AdversarialDistillation`). A short trial chooses the radius, the number of members and
    of steps; `RobustChoices` lists all settings, and each can be given by name. Three networks are made: the average
    of the members, and mixtures in which the base network has a third and two thirds of the weight. The result
    "ensemble" is the first of these that is within the allowance, judged on held-out inputs (`fip.study.AccuracyLoss`),
    else the base network. Without `held_out_labels` the base network's own estimate of a loss counts by half, as it is
    too large for such members. A member too far off for the last of them is led back on the straight line to the base
    network. Ensembles average probabilities, and are attacked as a whole. Without labelled test inputs nothing is
    attacked, and the result is chosen by the greatest loss of the members, each mixed with the base network.

    Args:
        module: trained classifier, in evaluation mode.
        data: `Data`, or what `Data.of` takes: anchors and held-out inputs within the bounds;
            labelled test inputs are only reported.
        epsilon: bound on the change of an input, in units of the inputs.
        norm: "linf" or "l2".
        allowance: largest loss of clean accuracy of a member, as a fraction, above 0 and below 1.
        attacks: "pgd" (PGD and targeted PGD) or "autoattack" (PGD and AutoAttack, slower), on the test inputs.
        budget: time for trial and paths, such as "10 min", "90 s" or a number of seconds, or {"steps": N} for each
            member; ten minutes by default. Attacks come on top, on as many test inputs as take about as long again.
        seed: seed of all random numbers.
        overrides: settings of `RobustChoices` by name, such as `members`.

    Returns:
        The recipe; nothing is measured before its study is needed.

    Raises:
        UsageError: for a number out of range or an unknown setting.
    """
    data = Data.of(data)
    given = overrides_of(RobustChoices, "robust-ensemble", overrides)
    RobustChoices(**given)
    model = ThreatModel(norm, epsilon, *data.bounds)
    task = Task(Subject(module, data), allowance, model, attacks, Budget.of(budget), seed, given, BELIEF)
    return Recipe("robust-ensemble", RobustEnsemble(task), task.parameters)
