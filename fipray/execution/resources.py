"""State of a worker that all jobs of a study share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.execution.evaluating import Evaluator
from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job, Payload
from fipray.execution.starts import Starts
from fipray.networks import Network
from fipray.paths import Probe
from fipray.records import Store
from fipray.study.evaluation import BASE
from fipray.study.measures import ACCURACY, probes_of
from fipray.study.tensors import Tensors, kept_of


@dataclass(frozen=True)
class Location:
    """Device, node and process on which a worker runs.

    Args:
        device: torch device, such as "cpu" or "cuda".
        node_id: ID of the cluster's node; None outside a cluster.
        worker_id: ID of the cluster's worker process; None outside a cluster.
    """

    device: str = "cpu"
    node_id: str | None = None
    worker_id: str | None = None


@dataclass(frozen=True, eq=False)
class Resources:
    """Network, data and results directory of a worker, on its device.

    Args:
        payload: the study's network, data and settings, as they were sent.
        store: the results directory.
        network: the base network, on the device.
        data: the data, on the device.
        probes: what is measured at saved points, by name: clean accuracy and the study's own measures.
        evaluator: evaluation of networks; None for a study without labelled test inputs.
        starts: starts of paths, cached.
        location: device, node and process.
        heartbeat: signs of progress, read by another thread.
    """

    payload: Payload
    store: Store
    network: Network
    data: Tensors
    probes: Mapping[str, Probe]
    evaluator: Evaluator | None
    starts: Starts
    location: Location
    heartbeat: Heartbeat

    @classmethod
    def of(cls, payload: Payload, store: Store, location: Location, heartbeat: Heartbeat) -> Resources:
        """Move a study's network and data to a device.

        Args:
            payload: the study's network, data and settings.
            store: the results directory.
            location: device, node and process.
            heartbeat: signs of progress, read by another thread.

        Returns:
            Resources for all jobs of the study.
        """
        device = location.device
        network = Network.of(payload.module, moving=payload.moving or None).to(device).computed(payload.compute)
        data = Tensors(payload.data, device)
        # Shares the network with the tracer: both treat weights as an argument, and jobs run one at a time.
        evaluator: Evaluator | None = None
        if tests := data.tests:
            evaluator = Evaluator(
                study=payload.study,
                network=network,
                geometry=payload.geometry,
                held_out=data.held_out(()),
                inputs=tests.inputs,
                labels=tests.labels,
                ood_inputs=data.ood_inputs,
                held_out_labels=data.held_out_labels,
            )
        # Looked up here, not at the first point, so that a measure that cannot be loaded fails the set-up of the worker
        # and not each of its jobs.
        probes: dict[str, Probe] = {ACCURACY: evaluator.accuracy} if evaluator else {}
        probes |= probes_of(payload.measures, network, data)
        kept = kept_of(payload.geometry, payload.keeps, data)
        starts = Starts(store, network, data, kept, device, heartbeat)
        return cls(payload, store, network, data, probes, evaluator, starts, location, heartbeat)

    def others(self, job: Job, networks: Sequence[str], names: Sequence[str]) -> list[Tensor]:
        """Weights of the other networks of an objective, on the device.

        Args:
            job: job that depends on them.
            networks: names among the study's other networks, which come first.
            names: names of paths or of the ends of rounds.

        Returns:
            Weights [P] of each.
        """
        given = [self.payload.networks[name].to(self.location.device) for name in networks]
        return given + [self.weights(job, name) for name in names]

    def weights(self, job: Job, name: str) -> Tensor:
        """Weights of a network, on the device.

        Args:
            job: job that depends on the network.
            name: "base", or the name of a path, of the end of a round, or of a variant.

        Returns:
            Weights [P].
        """
        if name == BASE:
            return self.network.weights
        end = job.weights(name)
        return torch.from_numpy(self.store.read_weights(end.file, end.sha256)["weights"]).to(self.location.device)
