"""Worker that runs the jobs of a study on one device, in this process or in an actor."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import torch

from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job, Payload, Tables
from fipray.execution.kinds import kind_for
from fipray.execution.kinds.kind import Report
from fipray.execution.log import logged
from fipray.execution.memory import LARGE, keep_freed_memory
from fipray.execution.resources import Location, Resources
from fipray.networks import resolved_device
from fipray.records import Store


class Worker:
    """Base network and data of a study on one device; runs one job at a time.

    Args:
        payload: network, data and settings of the study.
        directory: path or address of the results directory.
        threads: CPU threads of torch in this process.
        device: torch device, such as "cpu" or "cuda"; "auto" for a GPU if there is one, and the CPU elsewhere.
        node_id: ID of the cluster's node, for the rows; None outside a cluster.
        worker_id: ID of the cluster's worker process, for the rows; None outside a cluster.
        heartbeat: where to count signs of progress; None makes one.
    """

    def __init__(
        self,
        payload: Payload,
        directory: str | Path,
        *,
        threads: int = 1,
        device: str = "cpu",
        node_id: str | None = None,
        worker_id: str | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        # Specs name the study's own classes and functions by module, and these have to be importable here, too.
        sys.path += [folder for folder in payload.folders if folder not in sys.path]
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)  # the tails of a softmax are denormal numbers, slow on a CPU
        self.heartbeat = heartbeat or Heartbeat()
        location = Location(resolved_device(device), node_id, worker_id)
        self._resources = Resources.of(payload, Store.open(directory), location, self.heartbeat)
        network = self._resources.network
        if network.num_weights >= LARGE or network.frozen:
            # Checks of a network take more memory for a moment than any step does, and that would be kept, too. Frozen
            # parameters may be in memory that other workers read, so a forward that writes there must be found first.
            network.check(self._resources.data.held_out(()), payload.geometry)
        keep_freed_memory(network.num_weights)

    def run(self, job: Job, report: Report | None = None) -> Tables:
        """Run a job. Weights and a log are written to the results directory, under the number of the attempt.

        Args:
            job: the attempt.
            report: called with the rows that a path would have if it ended now, whenever a point of it is saved. An
                exception that it raises ends the job.

        Returns:
            Rows of the job's tables, which the caller commits.

        Raises:
            RunError: where a thread that the job started ended with an exception.
        """
        self.heartbeat.begin(job.id)
        resources = self._resources
        with logged(resources.store, job, f"on {resources.location.device} of {socket.gethostname()}"):
            return kind_for(job.spec).run(job, job.spec, resources, report)
