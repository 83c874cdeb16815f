"""Carries out one spec. A plain class, so that it runs here as well as in an actor."""

from __future__ import annotations

import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fipray.geometry import Network, OutputGeometry, functional_distance
from fipray.paths import PathPoint, trace
from fipray.records import Store
from fipray.records.layout import attempt_directory
from fipray.robustness import Classifier, Ensemble, evaluate, transfer_matrix
from fipray.study import resume
from fipray.study.canonical import kind_of, to_json
from fipray.study.data import Data
from fipray.study.spec import BASE, Evaluation, PathSpec, RobustnessSpec, Spec, TransferSpec

Tables = dict[str, list[dict[str, Any]]]
_STEP_FILE = "step-{:08d}"


@dataclass(frozen=True, eq=False)
class Material:
    """What every worker of a study needs: sent to it once."""

    study: str
    module: nn.Module
    data: Data
    geometry: OutputGeometry


@dataclass(frozen=True)
class WeightsFile:
    """Weights in a results directory, by the name of the file and its sha256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Work:
    """One attempt at one spec; `ends` are the end weights of the paths that it needs, by their names."""

    id: str
    spec: Spec
    attempt: int
    ends: Mapping[str, WeightsFile]

    @property
    def label(self) -> str:
        """What the work is, for people."""
        match self.spec:
            case PathSpec():
                return f"path {self.spec.name}"
            case RobustnessSpec():
                return f"attacks on {self.spec.name}"
            case TransferSpec():
                return "transfer of attacks"


class PathWorker:
    """Holds the base network and the data on one device; carries out one piece of work at a time."""

    def __init__(
        self,
        material: Material,
        directory: str | Path,
        *,
        threads: int = 1,
        device: str = "cpu",
        node_id: str | None = None,
        worker_id: str | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)  # the tails of a softmax are denormal numbers, slow on a CPU
        self._material, self._store = material, Store.open(directory)
        self._device, self._host, self._node_id, self._worker_id = device, socket.gethostname(), node_id, worker_id
        self._network = Network.of(material.module).to(device)
        self._anchors = self._tensor(material.data.anchors)
        self._held_out = self._tensor(material.data.held_out)
        if material.data.test_inputs is not None and material.data.test_labels is not None:
            self._test_inputs = self._tensor(material.data.test_inputs)
            self._test_labels = self._tensor(material.data.test_labels).long()

    def carry_out(self, work: Work) -> Tables:
        """Do the work; return the rows of its tables. Weights are written on the way, under the attempt's number."""
        match work.spec:
            case PathSpec():
                return self._trace(work, work.spec)
            case RobustnessSpec():
                return self._judge(work, work.spec)
            case TransferSpec():
                return self._transfer(work, work.spec)

    def _trace(self, work: Work, spec: PathSpec) -> Tables:
        probes = {"clean_accuracy": self._accuracy} if self._material.data.test_inputs is not None else {}
        earlier, files = resume.load(self._store, work.id, work.attempt, list(probes), self._device)
        kept = list(earlier)

        def keep(point: PathPoint) -> None:
            arrays = {"weights": point.weights.cpu().numpy()}
            files[point.step] = self._store.write_weights(work.id, work.attempt, _STEP_FILE.format(point.step), arrays)
            if kept and kept[-1].step == point.step:  # the end takes the place of the point that it was made of
                kept.pop()
            kept.append(point)
            if point.solver_state:
                resume.save(self._store, work.id, work.attempt, kept, files)

        path = trace(
            self._network,
            anchors=self._anchors,
            held_out=self._held_out,
            objective=spec.objective,
            stepper=spec.stepper,
            radius=spec.radius,
            events=spec.events,
            num_steps=spec.num_steps,
            batch_size=spec.batch_size,
            focus=spec.focus,
            save_at=spec.save_at,
            geometry=self._material.geometry,
            others=[self._weights(work, name) for name in spec.others],
            probes=probes,
            on_point=keep,
            resume=earlier,
            seed=spec.seed,
        )
        start = path.points[0]
        shared = {"study": self._material.study, "path_id": work.id, "name": spec.name, "attempt": work.attempt}
        points = [{**shared, **_describe(point, start, WeightsFile(*files[point.step]))} for point in path.points]
        in_both = (
            "sparsity",
            "functional_distance",
            "functional_distance_held_out",
            "objective_value",
            "clean_accuracy",
            "weights_file",
            "weights_sha256",
        )
        row = {
            **shared,
            **{column: points[-1][column] for column in in_both},
            "seed": spec.seed,
            "objective": kind_of(spec.objective),
            "stepper": kind_of(spec.stepper),
            "spec_json": to_json(spec),
            "outcome": path.outcome.sentence,
            "outcome_kind": path.outcome.kind,
            "num_steps": path.end.step,
            "walk_seconds": path.end.seconds,
            "host": self._host,
            "node_id": self._node_id,
            "worker_id": self._worker_id,
            "device": self._device,
        }
        return {"points": points, "paths": [row]}

    def _judge(self, work: Work, spec: RobustnessSpec) -> Tables:
        began = time.perf_counter()
        classifier, evaluation = self._classifier(work, spec.members), spec.evaluation
        inputs, labels = self._examples(evaluation)
        shared = {
            "study": self._material.study,
            "robustness_id": work.id,
            "name": spec.name,
            "kind": spec.network_kind,
            "num_members": len(spec.members),
            "norm": evaluation.threat_model.norm,
            "attempt": work.attempt,
            "host": self._host,
            "sparsity": float((self._weights(work, spec.members[0]) == 0).double().mean())
            if len(spec.members) == 1
            else None,
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
        rows = [row("none", 0.0, len(self._test_inputs), everywhere, everywhere)]
        verdict = evaluate(
            classifier, inputs, labels, evaluation.threat_model, evaluation.attacks, self._generator(evaluation)
        )
        epsilon = evaluation.threat_model.epsilon
        for attack in evaluation.attacks:
            robust = verdict.robust_accuracy(attack.name)
            rows.append(row(attack.name, epsilon, len(inputs), verdict.clean_accuracy, robust))
        rows.append(row("worst", epsilon, len(inputs), verdict.clean_accuracy, verdict.worst_accuracy))
        return {"robustness": rows}

    def _transfer(self, work: Work, spec: TransferSpec) -> Tables:
        began = time.perf_counter()
        evaluation, attack = spec.evaluation, spec.evaluation.attacks[-1]
        inputs, labels = self._examples(evaluation)
        networks = {name: self._classifier(work, members) for name, members in spec.networks}
        accuracies = transfer_matrix(
            networks, networks, inputs, labels, evaluation.threat_model, attack, self._generator(evaluation)
        )
        seconds = (time.perf_counter() - began) / accuracies.numel()
        return {
            "transfer": [
                {
                    "study": self._material.study,
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
                    "host": self._host,
                }
                for i, maker in enumerate(networks)
                for j, target in enumerate(networks)
            ]
        }

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        with warnings.catch_warnings():  # arrays in Ray's object store are read-only; nothing here writes to them
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array).to(self._device)

    def _weights(self, work: Work, name: str) -> Tensor:
        """End weights [P] of a path, or the base's."""
        if name == BASE:
            return self._network.weights
        end = work.ends[name]
        return torch.from_numpy(self._store.read_weights(end.file, end.sha256)["weights"]).to(self._device)

    def _classifier(self, work: Work, members: Sequence[str]) -> Classifier:
        def one(weights: Tensor) -> Classifier:
            return lambda inputs: self._network(weights, inputs)

        classifiers = [one(self._weights(work, member)) for member in members]
        return classifiers[0] if len(classifiers) == 1 else Ensemble(classifiers)

    def _examples(self, evaluation: Evaluation) -> tuple[Tensor, Tensor]:
        return self._test_inputs[: evaluation.num_examples], self._test_labels[: evaluation.num_examples]

    def _generator(self, evaluation: Evaluation) -> torch.Generator:
        return torch.Generator().manual_seed(evaluation.seed)

    def _accuracy(self, weights: Tensor) -> float:
        return self._share_correct(lambda inputs: self._network(weights, inputs))

    @torch.no_grad()
    def _share_correct(self, classifier: Classifier) -> float:
        parts = zip(self._test_inputs.split(1024), self._test_labels.split(1024), strict=True)
        correct = sum(int((classifier(inputs).argmax(1) == labels).sum()) for inputs, labels in parts)
        return correct / len(self._test_labels)

    @torch.no_grad()
    def _distance(self, classifier: Classifier) -> float:
        """Functional distance of a classifier to the base on the held-out inputs."""
        embed, network = self._material.geometry.embed, self._network
        reference = embed(network.outputs(network.weights, self._held_out))
        own = torch.cat([embed(classifier(part)) for part in self._held_out.split(1024)])
        return float(functional_distance(own, reference))


def steps_walked(store: Store, work: Work) -> int:
    """The last step at which an attempt at a path has kept a point; 0 before the first, and for other work."""
    kept = (store.directory / attempt_directory(work.id, work.attempt)).glob("step-*.safetensors")
    return max((int(file.stem.removeprefix("step-")) for file in kept), default=0)


def _describe(point: PathPoint, start: PathPoint, weights: WeightsFile) -> dict[str, Any]:
    """What the tables say of a point."""
    return {
        "step": point.step,
        "sparsity": point.sparsity,
        "functional_distance": point.functional_distance,
        "functional_distance_held_out": point.functional_distance_held_out,
        "objective_value": point.objective_value,
        "gain": start.objective_value - point.objective_value,
        "radius": point.radius,
        "weights_norm_moved": float(torch.linalg.vector_norm(point.weights - start.weights)),
        "clean_accuracy": point.probes.get("clean_accuracy"),
        "seconds": point.seconds,
        "weights_file": weights.file,
        "weights_sha256": weights.sha256,
    }
