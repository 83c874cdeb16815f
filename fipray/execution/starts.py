"""Networks at which paths start, with their outputs on the anchors, cached between jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job
from fipray.geometry import KroneckerMetric
from fipray.networks import Network
from fipray.paths import Batch, Problem, augmented, unpacked
from fipray.records import Store
from fipray.study.evaluation import BASE
from fipray.study.specs import PathSpec
from fipray.study.tensors import Tensors

NUM_CACHED = 4


@dataclass(frozen=True, eq=False)
class Start:
    """Network at which a path starts, and the data that the path keeps its function on.

    Args:
        network: the network, at the weights where the path starts.
        anchors: anchors, augmented, with the network's outputs on them.
        anchor_bytes: size of the anchors before augmentation, which a continued chain of paths has to store.
        memory: Kronecker-factored metrics of inputs that are no longer stored.
        parent_path_id: ID of the path that the weights come from; None for the base network.
    """

    network: Network
    anchors: Batch
    anchor_bytes: int
    memory: tuple[KroneckerMetric, ...]
    parent_path_id: str | None


@dataclass(frozen=True, eq=False)
class Starts:
    """Starts of paths, of which the last `NUM_CACHED` are kept in memory.

    Args:
        store: results directory from which weights are read.
        network: the base network.
        data: data of the study.
        kept: kept quantities of the study, as keyword arguments of `Problem`.
        device: device for weights and memory.
        heartbeat: signs of progress.
    """

    store: Store
    network: Network
    data: Tensors
    kept: Mapping[str, Any]
    device: str
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    _cached: dict[tuple[object, ...], Start] = field(default_factory=dict)

    def of(self, job: Job, spec: PathSpec) -> Start:
        """Start of a path, cached or computed.

        Args:
            job: attempt at the path or at a round of it.
            spec: the path.

        Returns:
            The start. Computing it costs a forward pass over all anchors.

        Raises:
            RunError: for a start at a variant that its path did not reach.
        """
        weights = job.start(spec.start)
        # The digest, not the name: a retrained start under the same name must not hit the cache. The ID as well, since
        # two paths may end at the same weights.
        parent = (weights.sha256, weights.path_id) if weights else BASE
        key = (parent, spec.anchors, spec.augmentations, spec.memory, spec.moving)
        if key not in self._cached:
            network, memory = self.network, tuple[KroneckerMetric, ...]()
            if spec.moving:
                network = network.only(spec.moving)
            if weights:
                arrays = self.store.read_weights(weights.file, weights.sha256)
                tensors = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
                # The memory is in the same file, so a path can start at any saved point without the data of earlier
                # paths.
                network, memory = network.at(tensors["weights"]), unpacked(tensors)
            problem, inputs = Problem(network, **self.kept), self.data.anchors(spec.anchors)
            if spec.memory:
                self.heartbeat.enter("Kronecker-factored memory of earlier inputs")
                memory += (spec.memory.of(problem, self.data.anchors(spec.memory.sets)),)
            inputs_kept = augmented(inputs, spec.augmentations)
            with self.heartbeat.counted(network, "outputs of the start on the anchors", len(inputs_kept)):
                anchors = problem.batch(inputs_kept)
            while len(self._cached) >= NUM_CACHED:  # first in, first out: dictionaries keep their order
                del self._cached[next(iter(self._cached))]
            path_id = weights.path_id if weights else None
            self._cached[key] = Start(network, anchors, inputs.nbytes, memory, path_id)
        return self._cached[key]
