"""Evaluation of networks and ensembles: accuracy, single attacks, robustness with measures, and the transfer matrix."""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fipray.errors import DataError
from fipray.execution.jobs import Job, Tables
from fipray.execution.per_example import joined, per_example_results
from fipray.geometry import OutputGeometry, class_logits, functional_distance
from fipray.networks import Network, sparsity_of
from fipray.robustness import (
    Classifier,
    Ensemble,
    Measures,
    StackedEnsemble,
    correct,
    evaluate,
    masking_warnings,
    measure,
    transfer_matrix,
)
from fipray.study.canonical import digest
from fipray.study.evaluation import AttackSpec, Mixing, RobustnessSpec, TransferSpec
from fipray.study.measures import AccuracyLoss

_logger = logging.getLogger(__name__)
WeightsOf = Callable[[str], Tensor]
NUM_CHECKED = 100  # examples on which signs of masked gradients are looked for
BATCH_SIZE = 1024  # inputs of one forward pass
LARGE = 1_000_000  # weights from which members one by one are faster on a CPU: by 2.3 with two ResNet-18


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Evaluation of a study's networks on its labelled test inputs, on the device of these.

    Args:
        study: name of the study, for the rows.
        network: the base network.
        geometry: output geometry of functional distances.
        held_out: inputs [H, ...] on which the functional distance to the base network is measured.
        inputs: test inputs [N, ...].
        labels: their classes, int64 [N].
        ood_inputs: out-of-distribution inputs [O, ...]; None leaves out the measures that need them.
        held_out_labels: classes [H] of the held-out inputs; None without any.
    """

    study: str
    network: Network
    geometry: OutputGeometry
    held_out: Tensor
    inputs: Tensor
    labels: Tensor
    ood_inputs: Tensor | None = None
    held_out_labels: Tensor | None = None

    def accuracy(self, weights: Tensor) -> float:
        """Clean accuracy of a network on all test inputs.

        Args:
            weights: its weights [P].

        Returns:
            Fraction of the inputs that are classified correctly, 0..1; outputs with NaN are wrong.
        """
        return self._fraction_correct(self._classifier([weights]))

    def attack(self, job: Job, spec: AttackSpec, weights_of: WeightsOf) -> Tables:
        """Run one attack on a chunk of the test inputs.

        Args:
            job: the attempt.
            spec: the attack, and what it attacks.
            weights_of: function from the name of a network to its weights [P].

        Returns:
            A row of `per_example`.
        """
        return {
            "per_example": [
                self._per_example(job, spec, self._classifier(_weights(spec.members, weights_of), spec.mixing))
            ]
        }

    def robustness(self, job: Job, spec: RobustnessSpec, weights_of: WeightsOf) -> Tables:
        """Compute accuracies and measures of a network or ensemble.

        Args:
            job: the attempt; where attacks are jobs of their own, it depends on their results.
            spec: the network or ensemble, and its evaluation.
            weights_of: function from the name of a network to its weights [P].

        Returns:
            Rows of `robustness`: without an attack, under each attack, and under the worst attack of each example. A
            row of `measures`, unless outputs hold NaN. Rows of `per_example`, where the attacks are run here.
        """
        tables: Tables = {}
        weights, evaluation = _weights(spec.members, weights_of), spec.evaluation
        classifier = self._classifier(weights, spec.mixing)
        if not evaluation.is_split:
            tables["per_example"] = [self._per_example(job, piece, classifier) for piece in spec.pieces]
        results = job.dependencies if evaluation.is_split else per_example_results(tables)
        # The same join in both cases, so that the results do not depend on whether the evaluation is split.
        found, attack_seconds = joined(spec.pieces, results)

        began = time.perf_counter()
        _logger.info(f"measures on {len(self.inputs):,} test inputs")
        if measures := self._measures(classifier, weights):
            measured = {"measures_id": job.id, "kind": spec.network_kind, **asdict(measures)}
            tables["measures"] = [self._row(job, spec.name, time.perf_counter() - began) | measured]
        everywhere = measures.clean_accuracy if measures else self._fraction_correct(classifier)
        shared = {
            "robustness_id": job.id,
            "kind": spec.network_kind,
            "num_members": len(spec.members),
            "norm": evaluation.threat_model.norm,
            "sparsity": sparsity_of(self.network, weights[0]) if len(weights) == 1 else None,
            **self._on_held_out(classifier),
        }
        # Time for signs of masked gradients belongs to no attack, and is left out.
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
                "num_examples": len(found.clean) if attacked else len(self.inputs),
                "clean_accuracy": found.clean_accuracy if attacked else everywhere,
                "robust_accuracy": robust,
                "warnings": warnings if attack == "worst" else None,
            }

        tables["robustness"] = [
            row("none", everywhere),
            *(row(attack, found.robust_accuracy(attack)) for attack in found.robust),
            row("worst", found.worst_accuracy),
        ]
        return tables

    def transfer(self, job: Job, spec: TransferSpec, weights_of: WeightsOf) -> Tables:
        """Compute the accuracy of every network on adversarial inputs made for every network.

        Args:
            job: the attempt.
            spec: the networks, and their evaluation, of which the last attack is used.
            weights_of: function from the name of a network to its weights [P].

        Returns:
            Rows of `transfer`, one for each ordered pair of networks.
        """
        began = time.perf_counter()
        evaluation, attack = spec.evaluation, spec.evaluation.attacks[-1]
        chunk = slice(evaluation.num_examples)  # not split into jobs: one attack, once for each network
        inputs, labels, draws = self.inputs[chunk], self.labels[chunk], self._generator(evaluation.seed, "transfer")
        mixings = dict(spec.mixings)
        networks = {
            name: self._classifier(_weights(members, weights_of), mixings.get(name)) for name, members in spec.networks
        }
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

    def _generator(self, seed: int, *use: str) -> torch.Generator:
        """Random generator on the inputs' device, seeded by the evaluation's seed and by what the draws are for."""
        # A digest of 64 bits, of which torch takes 63: seeds are signed.
        return torch.Generator(self.inputs.device).manual_seed(int(digest(str(seed), *use), 16) >> 1)

    def _row(self, job: Job, name: str, seconds: float) -> dict[str, Any]:
        """Columns that the tables about networks share."""
        host = socket.gethostname()
        return {"study": self.study, "name": name, "seconds": seconds, "attempt": job.attempt, "host": host}

    def _per_example(self, job: Job, spec: AttackSpec, classifier: Classifier) -> dict[str, Any]:
        began = time.perf_counter()
        chunk = slice(spec.first_example, spec.first_example + spec.num_examples)
        # Seeded by what is attacked and how, so the result is the same on any worker with such a device, in any order.
        draws = self._generator(spec.seed, spec.name, spec.attack.name, str(spec.first_example))
        found = evaluate(classifier, self.inputs[chunk], self.labels[chunk], spec.threat_model, [spec.attack], draws)
        return {
            **self._row(job, spec.name, time.perf_counter() - began),
            "per_example_id": job.id,
            "attack": spec.attack.name,
            "norm": spec.threat_model.norm,
            "epsilon": spec.threat_model.epsilon,
            "first_example": spec.first_example,
            "num_examples": spec.num_examples,
            "clean": found.clean.tolist(),
            "robust": found.robust[spec.attack.name].tolist(),
        }

    def _measures(self, classifier: Classifier, weights: Sequence[Tensor]) -> Measures | None:
        """Measures on all test inputs; None where outputs hold NaN."""
        members = [self._classifier([each]) for each in weights]
        try:
            return measure(classifier, self.inputs, self.labels, self.ood_inputs, members)
        except DataError:  # inputs and labels passed `evaluate`, so the outputs are at fault: they are no probabilities
            return None

    def _warnings(self, spec: RobustnessSpec, classifier: Classifier) -> str | None:
        """Signs of masked gradients; None where the evaluation does not ask for them."""
        evaluation = spec.evaluation
        if not evaluation.check_masking:
            return None
        chunk = slice(min(evaluation.num_examples, NUM_CHECKED))
        # Draws of its own, so that asking for these signs does not change the results of any attack.
        _logger.info(f"signs of masked gradients on {min(evaluation.num_examples, NUM_CHECKED)} test inputs")
        draws = self._generator(evaluation.seed, spec.name, "masking")
        return "; ".join(
            masking_warnings(classifier, self.inputs[chunk], self.labels[chunk], evaluation.threat_model, draws)
        )

    def _classifier(self, weights: Sequence[Tensor], mixing: Mixing | None = None) -> Classifier:
        if len(weights) == 1 and mixing is None:
            return partial(_class_outputs, self.network, weights[0])
        mixed = mixing or Mixing()
        # A study tries stacks out only where an ensemble has two members.
        if len(weights) == 1 or (self.inputs.device.type == "cpu" and len(weights[0]) >= LARGE):
            members = [partial(_class_outputs, self.network, each) for each in weights]
            return Ensemble(members, weights=mixed.weights, temperatures=mixed.temperatures)
        stack = torch.stack(list(weights))
        return StackedEnsemble(self.network, stack, member_weights=mixed.weights, temperatures=mixed.temperatures)

    @torch.no_grad()
    def _fraction_correct(self, classifier: Classifier) -> float:
        parts = zip(self.inputs.split(BATCH_SIZE), self.labels.split(BATCH_SIZE), strict=True)
        return sum(int(correct(classifier(inputs), labels).sum()) for inputs, labels in parts) / len(self.labels)

    @torch.no_grad()
    def _on_held_out(self, classifier: Classifier) -> dict[str, float | None]:
        """Functional distance and loss of accuracy since the base network; None where outputs are not finite."""
        _logger.info(f"functional distance on {len(self.held_out):,} held-out inputs")
        embed, network = self.geometry.embed, self.network
        base = class_logits(network.outputs(network.weights, self.held_out))
        # In batches: a stacked ensemble needs the memory of all its members at once.
        own = torch.cat([classifier(part) for part in self.held_out.split(BATCH_SIZE)])
        distance = float(functional_distance(embed(own), embed(base)))
        lost = AccuracyLoss().between(own, base, self.held_out_labels)
        numbers = {
            "functional_distance_held_out": distance,
            "accuracy_loss_held_out": lost,
            "nll_loss_held_out": _rise_of_nll(own, base, self.held_out_labels),
        }
        return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def _rise_of_nll(outputs: Tensor, base: Tensor, labels: Tensor | None) -> float:
    """Mean rise of the negative log-likelihood since the base network, plus one standard error; NaN without labels."""
    if labels is None:
        return math.nan
    own, before = (functional.cross_entropy(each.double(), labels, reduction="none") for each in (outputs, base))
    risen = own - before
    return float(risen.mean() + risen.std() / len(risen) ** 0.5)


def _class_outputs(network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
    """Logits of all classes [N, C], C >= 2: a single logit becomes two."""
    return class_logits(network(weights, inputs))


def _weights(members: Sequence[str], weights_of: WeightsOf) -> list[Tensor]:
    return [weights_of(name) for name in members]
