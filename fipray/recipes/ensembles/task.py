"""What the recipes of ensembles are asked for, and what both do alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fipray import analysis
from fipray.errors import DataError, UsageError
from fipray.paths import MeasureAbove
from fipray.recipes.budget import Budget
from fipray.recipes.machine import Machine
from fipray.recipes.record import GIVEN, Plain
from fipray.recipes.subject import Subject
from fipray.recipes.trial import Bench
from fipray.robustness import PGD, Attack, AutoAttack, TargetedPGD, ThreatModel
from fipray.study import AccuracyLoss, Data, Evaluation
from fipray.study.evaluation import BASE
from fipray.study.measures import ACCURACY_LOSS
from fipray.study.referenced import extremes

AttackNames = Literal["pgd", "autoattack"]
ATTACKS: dict[str, tuple[Attack, ...]] = {"pgd": (TargetedPGD(), PGD()), "autoattack": (PGD(), AutoAttack())}
ENSEMBLE = "ensemble"
USUAL_MEMBERS = 3


@dataclass(frozen=True, eq=False)
class Task:
    """Ensemble that is asked for; the arguments are those of the recipes.

    `belief` says how far the base network's own estimate of a loss of accuracy counts where no labels judge it, 0..1.
    """

    subject: Subject
    allowance: float
    threat_model: ThreatModel
    attacks: AttackNames
    budget: Budget
    seed: int
    overrides: Mapping[str, Any]
    belief: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.allowance < 1:
            raise UsageError(
                f"allowance is a fraction such as 0.02 for two points, above 0 and below 1; {self.allowance} was given"
            )

    @property
    def module(self) -> nn.Module:
        return self.subject.module

    @property
    def data(self) -> Data:
        return self.subject.data

    @property
    def num_held_out(self) -> int:
        """Number of held-out inputs by which networks are judged."""
        return min(len(self.data.held_out), 2000)

    @property
    def num_parallel(self) -> int:
        """Number of members that can be traced at the same time, as far as it is known before a trial."""
        return int(self.overrides.get("members", USUAL_MEMBERS))

    def check(self) -> None:
        """Refuse what no ensemble of classifiers can be made of.

        Raises:
            UsageError: for a network whose outputs are no classes.
            DataError: for anchors outside the bounds.
        """
        self.subject.check()
        if not self.subject.is_classifier or self.subject.base_outputs.ndim != 2:
            raise UsageError(
                "ensembles are made of classifiers with outputs [N, C]; this network's outputs are "
                f"{list(self.subject.base_outputs.shape)}"
            )
        low, high = self.data.bounds
        least, greatest = extremes(self.data.anchors)
        if least < low or greatest > high:
            raise DataError(
                f"anchors lie in {least:.4g}..{greatest:.4g}, outside the bounds {low}..{high}: rescale "
                "them, or give Data(bounds=(low, high))"
            )

    def bench(self, machine: Machine) -> Bench:
        """Part of the data on which a trial runs.

        Args:
            machine: threads and device.

        Returns:
            The bench.
        """
        data = self.data
        return Bench(self.subject, machine, min(len(data.anchors), 2048), min(len(data.held_out), 256), self.seed)

    @property
    def most(self) -> float:
        """Largest loss of accuracy on held-out inputs, by `AccuracyLoss`, that is within the allowance."""
        return self.allowance if self.data.held_out_labels is not None else self.allowance / self.belief

    @property
    def limit(self) -> MeasureAbove:
        """Limit of each path: the loss of accuracy on held-out inputs."""
        return MeasureAbove(ACCURACY_LOSS, self.most)

    def measure(self, base_weight: float = 0.0) -> AccuracyLoss:
        """Measure of that limit.

        Args:
            base_weight: weight of the base network in the mixture that is judged.

        Returns:
            The measure.
        """
        return AccuracyLoss(self.num_held_out, base_weight=base_weight)

    def evaluation(self, num_examples: int) -> Evaluation | None:
        """Attacks on the base network, the members and the ensembles; None without labelled test inputs."""
        if self.data.test_inputs is None:
            return None
        return Evaluation(self.threat_model, ATTACKS[self.attacks], num_examples, self.seed)

    @property
    def num_gradients(self) -> int:
        """About how many gradients the attacks take for an input that withstands them."""
        return 220 if self.attacks == "pgd" else 4000

    def composition(self, network: str, kind: str, mixtures: Mapping[str, str], why: str) -> str:
        """Describe what the result is.

        Args:
            network: name of the network.
            kind: kind of the members.
            mixtures: what mixtures with the base network have besides the members, by the ends of their names.
            why: reason why it is the base network, where it is.

        Returns:
            A sentence, or two.
        """
        if network == BASE:
            return f"{ENSEMBLE!r} is the base network, as {why}. The members themselves are among the results."
        return f"{ENSEMBLE!r} averages the {kind} members{mixtures.get(network.removeprefix(kind), '')}."

    def beyond(self, own: Mapping[str, float], base: Mapping[str, float]) -> tuple[str, ...]:
        """Say where the result loses more than the allowance on test inputs, which took no part in its choice.

        Args:
            own: numbers of the result, as `evaluated` gives them.
            base: those of the base network.

        Returns:
            A sentence; none within the allowance.
        """
        lost = base["clean"] - own["clean"]
        if lost <= self.allowance:
            return ()
        return (
            f"On these that is {100 * lost:.1f} points less, more than the allowance of {self.allowance:.1%}, which "
            f"was judged on {self.num_held_out:,} held-out inputs: give more of them, or a smaller allowance.",
        )

    @property
    def parameters(self) -> dict[str, Plain]:
        """Arguments as plain values, for the record."""
        return {
            "allowance": self.allowance,
            "norm": self.threat_model.norm,
            "epsilon": self.threat_model.epsilon,
            "attacks": self.attacks,
            "budget": self.budget.text,
            "seed": self.seed,
            **{f"{GIVEN}{name}": value for name, value in self.overrides.items()},
        }

    def held_back(self, results: analysis.Results) -> str:
        """Describe how many members the allowance ended.

        Args:
            results: results of a run.

        Returns:
            A sentence.
        """
        paths = results.paths
        ended = int((paths["outcome_kind"] == "stopped").sum())
        judged = "accuracy"
        if self.data.held_out_labels is None:
            part = "" if self.belief == 1 else f"{self.belief:.0%} of "
            judged = f"accuracy, by {part}the base network's own estimate,"
        return (
            f"{ended} of {len(paths)} members were led back towards the base network until they lost at most "
            f"{self.allowance:.1%} of {judged} on {self.num_held_out:,} held-out inputs."
        )


def evaluated(results: analysis.Results) -> dict[str, dict[str, float]]:
    """Clean and robust accuracy, NLL and calibration error of the base network and of the result.

    Args:
        results: results of a run.

    Returns:
        Numbers by "base" and "ensemble", and within it by column; empty where nothing was evaluated.
    """
    found: dict[str, dict[str, float]] = {}
    for label, name in ((BASE, BASE), (ENSEMBLE, results.named.get(ENSEMBLE))):
        rows = results.robustness[results.robustness["name"] == name].set_index("attack")
        measured = results.measures[results.measures["name"] == name]
        if rows.empty or measured.empty:
            return {}
        found[label] = {
            "clean": float(rows.loc["none", "clean_accuracy"]),
            "robust": float(rows.loc["worst", "robust_accuracy"]),
            "num_examples": int(rows.loc["worst", "num_examples"]),
            "nll": float(measured["nll"].iloc[0]),
            "ece": float(measured["expected_calibration_error"].iloc[0]),
        }
    return found
