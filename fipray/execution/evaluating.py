"""How networks and ensembles are judged: clean, under the attacks of an evaluation, and on each other's attacks."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fipray.errors import DataError
from fipray.execution.jobs import Artifact, Job, PerExample, Tables, artifacts_of
from fipray.geometry import OutputGeometry, class_logits, functional_distance
from fipray.networks import Network, sparsity_of
from fipray.robustness import (
    Classifier,
    Measures,
    Robustness,
    StackedEnsemble,
    correct,
    evaluate,
    masking_warnings,
    measure,
    transfer_matrix,
)
from fipray.study.canonical import digest
from fipray.study.evaluation import AttackSpec, RobustnessSpec, TransferSpec

WeightsOf = Callable[[str], Tensor]
NUM_CHECKED = 100  # examples on which signs of masked gradients are looked for


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Judges networks of a study on its labelled test inputs, on the device where these are.

    `held_out` inputs are those on which functional distances to the base are measured, `ood_inputs` inputs those of no
    class.
    """

    study: str
    network: Network
    geometry: OutputGeometry
    held_out: Tensor
    inputs: Tensor
    labels: Tensor
    ood_inputs: Tensor | None = None

    def accuracy(self, weights: Tensor) -> float:
        """Share of all test inputs that the network classifies correctly, 0..1."""
        return self._share_correct(self._classifier([weights]))

    def attack(self, job: Job, spec: AttackSpec, weights_of: WeightsOf) -> Tables:
        """A row of `per_example`: one attack on a network or an ensemble; `weights_of` a member's name [P]."""
        return {"per_example": [self._per_example(job, spec, self._classifier(_weights(spec.members, weights_of)))]}

    def judge(self, job: Job, spec: RobustnessSpec, weights_of: WeightsOf) -> Tables:
        """Rows of `robustness`: a network or an ensemble without an attack, under every attack, and under the worst;
        of `measures`, unless there are outputs with NaN; and of `per_example`, where the attacks are done here as well.
        """
        tables: Tables = {}
        weights, evaluation = _weights(spec.members, weights_of), spec.evaluation
        classifier = self._classifier(weights)
        if not evaluation.is_split:
            tables["per_example"] = [self._per_example(job, piece, classifier) for piece in spec.pieces]
        made = job.made if evaluation.is_split else artifacts_of(tables)
        verdict, attack_seconds = joined(spec.pieces, made)

        began = time.perf_counter()
        if measures := self._measures(classifier, weights):
            measured = {"measures_id": job.id, "kind": spec.network_kind, **asdict(measures)}
            tables["measures"] = [self._row(job, spec.name, time.perf_counter() - began) | measured]
        everywhere = measures.clean_accuracy if measures else self._share_correct(classifier)
        shared = {
            "robustness_id": job.id,
            "kind": spec.network_kind,
            "num_members": len(spec.members),
            "norm": evaluation.threat_model.norm,
            "sparsity": sparsity_of(self.network, weights[0]) if len(weights) == 1 else None,
            "functional_distance_held_out": self._distance(classifier),
        }
        seconds = {"none": time.perf_counter() - began, **attack_seconds}
        warnings = self._warnings(spec, classifier)
        seconds["worst"] = sum(attack_seconds.values())

        def row(attack: str, robust: float) -> dict[str, Any]:
            attacked = attack != "none"
            return {
                **self._row(job, spec.name, seconds[attack]),
                **shared,
                "attack": attack,
                "epsilon": evaluation.threat_model.epsilon if attacked else 0.0,
                "num_examples": len(verdict.clean) if attacked else len(self.inputs),
                "clean_accuracy": verdict.clean_accuracy if attacked else everywhere,
                "robust_accuracy": robust,
                "warnings": warnings if attack == "worst" else None,
            }

        tables["robustness"] = [
            row("none", everywhere),
            *(row(attack, verdict.robust_accuracy(attack)) for attack in verdict.robust),
            row("worst", verdict.worst_accuracy),
        ]
        return tables

    def transfer(self, job: Job, spec: TransferSpec, weights_of: WeightsOf) -> Tables:
        """Rows of `transfer`: every network on the inputs that the last attack makes on every other."""
        began = time.perf_counter()
        evaluation, attack = spec.evaluation, spec.evaluation.attacks[-1]
        some = slice(evaluation.num_examples)
        inputs, labels, draws = self.inputs[some], self.labels[some], _generator(evaluation.seed, "transfer")
        networks = {name: self._classifier(_weights(members, weights_of)) for name, members in spec.networks}
        accuracies = transfer_matrix(networks, networks, inputs, labels, evaluation.threat_model, attack, draws)
        seconds = (time.perf_counter() - began) / accuracies.numel()
        return {
            "transfer": [
                {
                    "study": self.study,
                    "transfer_id": job.id,
                    "source": source,
                    "target": target,
                    "attack": attack.name,
                    "norm": evaluation.threat_model.norm,
                    "epsilon": evaluation.threat_model.epsilon,
                    "num_examples": len(inputs),
                    "accuracy": float(accuracies[i, j]),
                    "seconds": seconds,
                    "attempt": job.attempt,
                    "host": socket.gethostname(),
                }
                for i, source in enumerate(networks)
                for j, target in enumerate(networks)
            ]
        }

    def _row(self, job: Job, name: str, seconds: float) -> dict[str, Any]:
        """What rows of all tables of networks share."""
        host = socket.gethostname()
        return {"study": self.study, "name": name, "seconds": seconds, "attempt": job.attempt, "host": host}

    def _per_example(self, job: Job, spec: AttackSpec, classifier: Classifier) -> dict[str, Any]:
        """A row of `per_example`. What is drawn at random depends on what is attacked and how, not on who does it when."""
        began = time.perf_counter()
        some = slice(spec.first_example, spec.first_example + spec.num_examples)
        draws = _generator(spec.seed, spec.name, spec.attack.name, str(spec.first_example))
        verdict = evaluate(classifier, self.inputs[some], self.labels[some], spec.threat_model, [spec.attack], draws)
        return {
            **self._row(job, spec.name, time.perf_counter() - began),
            "per_example_id": job.id,
            "attack": spec.attack.name,
            "norm": spec.threat_model.norm,
            "epsilon": spec.threat_model.epsilon,
            "first_example": spec.first_example,
            "num_examples": spec.num_examples,
            "clean": verdict.clean.tolist(),
            "robust": verdict.robust[spec.attack.name].tolist(),
        }

    def _measures(self, classifier: Classifier, weights: Sequence[Tensor]) -> Measures | None:
        """On all test inputs; None where outputs hold NaN."""
        members = [self._classifier([each]) for each in weights]
        try:
            return measure(classifier, self.inputs, self.labels, self.ood_inputs, members)
        except DataError:  # the examples were judged before; what is left are outputs that are no probabilities
            return None

    def _warnings(self, spec: RobustnessSpec, classifier: Classifier) -> str | None:
        """Signs of masked gradients; None where nobody asked."""
        evaluation = spec.evaluation
        if not evaluation.check_masking:
            return None
        some = slice(min(evaluation.num_examples, NUM_CHECKED))
        draws = _generator(evaluation.seed, spec.name, "masking")
        return "; ".join(
            masking_warnings(classifier, self.inputs[some], self.labels[some], evaluation.threat_model, draws)
        )

    def _classifier(self, weights: Sequence[Tensor]) -> Classifier:
        if len(weights) == 1:
            return partial(_class_outputs, self.network, weights[0])
        return StackedEnsemble(self.network, torch.stack(list(weights)))

    @torch.no_grad()
    def _share_correct(self, classifier: Classifier) -> float:
        parts = zip(self.inputs.split(1024), self.labels.split(1024), strict=True)
        return sum(int(correct(classifier(inputs), labels).sum()) for inputs, labels in parts) / len(self.labels)

    @torch.no_grad()
    def _distance(self, classifier: Classifier) -> float | None:
        """Functional distance of a classifier to the base on the held-out inputs; None where outputs are not finite."""
        embed, network = self.geometry.embed, self.network
        reference = embed(class_logits(network.outputs(network.weights, self.held_out)))
        own = torch.cat([embed(classifier(part)) for part in self.held_out.split(1024)])
        distance = float(functional_distance(own, reference))
        return distance if math.isfinite(distance) else None


def joined(pieces: Sequence[AttackSpec], made: Mapping[str, Artifact]) -> tuple[Robustness, dict[str, float]]:
    """The verdicts of the pieces, attack by attack and example by example, and the seconds that each attack took."""
    clean: dict[str, list[bool]] = {}
    robust: dict[str, list[bool]] = {}
    seconds: dict[str, float] = {}
    for piece in pieces:
        per_example, attack = made[piece.produces], piece.attack.name
        assert isinstance(per_example, PerExample), f"{piece.produces} is no verdict"
        clean[attack] = [*clean.get(attack, ()), *per_example.clean]
        robust[attack] = [*robust.get(attack, ()), *per_example.robust]
        seconds[attack] = seconds.get(attack, 0.0) + per_example.seconds
    # Different devices may differ about an example on the edge: right as it is, is what was so for every attack.
    always = torch.tensor(list(clean.values())).all(0)
    return Robustness(always, {attack: torch.tensor(each) & always for attack, each in robust.items()}), seconds


def _class_outputs(network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
    """Logits of all classes [N, C], C >= 2."""
    return class_logits(network(weights, inputs))


def _weights(members: Sequence[str], weights_of: WeightsOf) -> list[Tensor]:
    return [weights_of(name) for name in members]


def _generator(seed: int, *use: str) -> torch.Generator:
    """Seeded by the evaluation's seed and by what the draws are for."""
    return torch.Generator().manual_seed(int(digest(str(seed), *use), 16) >> 1)
