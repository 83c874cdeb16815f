"""How networks and ensembles are judged: clean, under the attacks of an evaluation, and on each other's attacks."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fipray.geometry import Network, OutputGeometry, functional_distance
from fipray.robustness import Classifier, Ensemble, evaluate, transfer_matrix
from fipray.study.spec import Evaluation, RobustnessSpec, TransferSpec
from fipray.study.work import Tables, Work

WeightsOf = Callable[[str], Tensor]


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges networks of a study on its labelled test inputs, on the device where these are.

    `held_out` inputs are those on which functional distances to the base are measured.
    """

    study: str
    network: Network
    geometry: OutputGeometry
    held_out: Tensor
    inputs: Tensor
    labels: Tensor

    def accuracy(self, weights: Tensor) -> float:
        """Share of all test inputs that the network classifies correctly, 0..1."""
        return self._share_correct(lambda inputs: self.network(weights, inputs))

    def judge(self, work: Work, spec: RobustnessSpec, weights_of: WeightsOf) -> Tables:
        """Rows of `robustness`: a network or an ensemble under every attack; `weights_of` a member's name [P]."""
        began = time.perf_counter()
        classifier, evaluation = self._classifier([weights_of(name) for name in spec.members]), spec.evaluation
        inputs, labels = self._examples(evaluation)
        shared = {
            "study": self.study,
            "robustness_id": work.id,
            "name": spec.name,
            "kind": spec.network_kind,
            "num_members": len(spec.members),
            "norm": evaluation.threat_model.norm,
            "attempt": work.attempt,
            "host": socket.gethostname(),
            "sparsity": float((weights_of(spec.members[0]) == 0).double().mean()) if len(spec.members) == 1 else None,
            "functional_distance_held_out": self._distance(classifier),
        }

        def row(attack: str, epsilon: float, num_examples: int, clean: float, robust: float) -> dict[str, Any]:
            return {
                **shared,
                "attack": attack,
                "epsilon": epsilon,
                "num_examples": num_examples,
                "clean_accuracy": clean,
                "robust_accuracy": robust,
                "seconds": time.perf_counter() - began,
            }

        everywhere = self._share_correct(classifier)
        rows = [row("none", 0.0, len(self.inputs), everywhere, everywhere)]
        verdict = evaluate(
            classifier, inputs, labels, evaluation.threat_model, evaluation.attacks, _generator(evaluation)
        )
        epsilon = evaluation.threat_model.epsilon
        for attack in evaluation.attacks:
            robust = verdict.robust_accuracy(attack.name)
            rows.append(row(attack.name, epsilon, len(inputs), verdict.clean_accuracy, robust))
        rows.append(row("worst", epsilon, len(inputs), verdict.clean_accuracy, verdict.worst_accuracy))
        return {"robustness": rows}

    def transfer(self, work: Work, spec: TransferSpec, weights_of: WeightsOf) -> Tables:
        """Rows of `transfer`: every network on the inputs that the last attack makes on every other."""
        began = time.perf_counter()
        evaluation, attack = spec.evaluation, spec.evaluation.attacks[-1]
        inputs, labels = self._examples(evaluation)
        networks = {name: self._classifier([weights_of(name) for name in members]) for name, members in spec.networks}
        accuracies = transfer_matrix(
            networks, networks, inputs, labels, evaluation.threat_model, attack, _generator(evaluation)
        )
        seconds = (time.perf_counter() - began) / accuracies.numel()
        return {
            "transfer": [
                {
                    "study": self.study,
                    "transfer_id": work.id,
                    "maker": maker,
                    "target": target,
                    "attack": attack.name,
                    "norm": evaluation.threat_model.norm,
                    "epsilon": evaluation.threat_model.epsilon,
                    "num_examples": len(inputs),
                    "accuracy": float(accuracies[i, j]),
                    "seconds": seconds,
                    "attempt": work.attempt,
                    "host": socket.gethostname(),
                }
                for i, maker in enumerate(networks)
                for j, target in enumerate(networks)
            ]
        }

    def _classifier(self, weights: Sequence[Tensor]) -> Classifier:
        def one(weights: Tensor) -> Classifier:
            return lambda inputs: self.network(weights, inputs)

        classifiers = [one(each) for each in weights]
        return classifiers[0] if len(classifiers) == 1 else Ensemble(classifiers)

    def _examples(self, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        return self.inputs[: evaluation.num_examples], self.labels[: evaluation.num_examples]

    @torch.no_grad()
    def _share_correct(self, classifier: Classifier) -> float:
        parts = zip(self.inputs.split(1024), self.labels.split(1024), strict=True)
        correct = sum(int((classifier(inputs).argmax(1) == labels).sum()) for inputs, labels in parts)
        return correct / len(self.labels)

    @torch.no_grad()
    def _distance(self, classifier: Classifier) -> float:
        """Functional distance of a classifier to the base on the held-out inputs."""
        embed, network = self.geometry.embed, self.network
        reference = embed(network.outputs(network.weights, self.held_out))
        own = torch.cat([embed(classifier(part)) for part in self.held_out.split(1024)])
        return float(functional_distance(own, reference))


def _generator(evaluation: Evaluation) -> torch.Generator:
    return torch.Generator().manual_seed(evaluation.seed)
