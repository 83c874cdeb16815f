"""Carries out one spec. A plain class, so that it runs here as well as in an actor."""

from __future__ import annotations

import socket
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fipray.execution.evaluating import Evaluator
from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job, Payload, Tables
from fipray.execution.log import logged
from fipray.execution.tracing import Report, Tracer, WeightsOf
from fipray.networks import Network
from fipray.paths import Probe
from fipray.records import Store
from fipray.study.evaluation import BASE, AttackSpec, RobustnessSpec, TransferSpec
from fipray.study.measures import ACCURACY, probes_of
from fipray.study.rounds import RoundSpec
from fipray.study.specs import PathSpec
from fipray.study.tensors import Tensors


class Worker:
    """Holds the base network and the data on one device; carries out one piece of work at a time."""

    def __init__(
        self,
        material: Payload,
        directory: str | Path,
        *,
        threads: int = 1,
        device: str = "cpu",
        node_id: str | None = None,
        worker_id: str | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        sys.path += [folder for folder in material.folders if folder not in sys.path]
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)  # the tails of a softmax are denormal numbers, slow on a CPU
        self._device, self._store = device, Store.open(directory)
        self.heartbeat = heartbeat or Heartbeat()
        self._network = Network.of(material.module, moving=material.moving or None).to(device)
        study, geometry, data = material.study, material.geometry, material.data
        tensors = Tensors(data, device)
        self._judge: Evaluator | None = None
        if tests := tensors.tests:
            held_out = tensors.held_out(())
            self._judge = Evaluator(
                study, self._network, geometry, held_out, tests.inputs, tests.labels, tensors.ood_inputs
            )
        probes: dict[str, Probe] = {ACCURACY: self._judge.accuracy} if self._judge else {}
        probes |= probes_of(material.measures, self._network, tensors.tests)
        self._walker = Tracer(
            store=self._store,
            study=study,
            network=self._network,
            geometry=geometry,
            keeps=material.keeps,
            data=tensors,
            probes=probes,
            device=device,
            node_id=node_id,
            worker_id=worker_id,
            heartbeat=self.heartbeat,
        )

    def carry_out(self, job: Job, report: Report | None = None) -> Tables:
        """Do the work; return the rows of its tables. Weights and a log are written, under the attempt's number.

        report: is told the rows of a path at every point, as they would be if it ended there; what it raises ends it.
        """
        self.heartbeat.begin()
        with logged(self._store, job, f"on {self._device} of {socket.gethostname()}"):
            return self._carry_out(job, partial(self._weights, job), report)

    def _carry_out(self, job: Job, weights_of: WeightsOf, report: Report | None) -> Tables:
        match job.spec:
            case PathSpec():
                return self._walker.path(job, job.spec, weights_of, report)
            case RoundSpec():
                return self._walker.round(job, job.spec, weights_of)
        assert self._judge is not None, "a study with an evaluation has labelled test inputs"
        with self.heartbeat.at_every_pass(self._network):
            match job.spec:
                case AttackSpec():
                    return self._judge.attack(job, job.spec, weights_of)
                case RobustnessSpec():
                    return self._judge.judge(job, job.spec, weights_of)
                case TransferSpec():
                    return self._judge.transfer(job, job.spec, weights_of)

    def _weights(self, job: Job, name: str) -> Tensor:
        """End weights [P] of a path, or the base's."""
        if name == BASE:
            return self._network.weights
        end = job.weights(name)
        return torch.from_numpy(self._store.read_weights(end.file, end.sha256)["weights"]).to(self._device)
