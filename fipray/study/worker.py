"""Carries out one spec. A plain class, so that it runs here as well as in an actor."""

from __future__ import annotations

import socket
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fipray.geometry import Network
from fipray.paths import PathPoint, trace
from fipray.records import Store
from fipray.study import resume
from fipray.study.canonical import kind_of, to_json
from fipray.study.judging import Judge
from fipray.study.spec import BASE, PathSpec, RobustnessSpec, TransferSpec
from fipray.study.work import STEP_FILE, Material, Tables, WeightsFile, Work


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
        self._judge: Judge | None = None
        if material.data.test_inputs is not None and material.data.test_labels is not None:
            inputs, labels = self._tensor(material.data.test_inputs), self._tensor(material.data.test_labels).long()
            self._judge = Judge(material.study, self._network, material.geometry, self._held_out, inputs, labels)

    def carry_out(self, work: Work) -> Tables:
        """Do the work; return the rows of its tables. Weights are written on the way, under the attempt's number."""
        match work.spec:
            case PathSpec():
                return self._trace(work, work.spec)
            case RobustnessSpec():
                return self._judging.judge(work, work.spec, partial(self._weights, work))
            case TransferSpec():
                return self._judging.transfer(work, work.spec, partial(self._weights, work))

    @property
    def _judging(self) -> Judge:
        assert self._judge is not None, "a study with an evaluation has labelled test inputs"
        return self._judge

    def _trace(self, work: Work, spec: PathSpec) -> Tables:
        probes = {"clean_accuracy": self._judge.accuracy} if self._judge else {}
        earlier, files = resume.load(self._store, work.id, work.attempt, list(probes), self._device)
        kept = list(earlier)

        def keep(point: PathPoint) -> None:
            arrays = {"weights": point.weights.cpu().numpy()}
            files[point.step] = self._store.write_weights(work.id, work.attempt, STEP_FILE.format(point.step), arrays)
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
