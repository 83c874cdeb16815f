"""Runner on Ray actors: on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fipray.border import checked
from fipray.cluster import connection
from fipray.cluster.capacity import Capacity
from fipray.cluster.resources import WorkerResources
from fipray.cluster.stalls import check_stall_seconds
from fipray.errors import UsageError

if TYPE_CHECKING:  # these import torch, and a cluster that is too small must be reported before that
    from fipray.execution import Listener
    from fipray.execution.changed import Changed
    from fipray.records import Store
    from fipray.study import Study

DEVICES = ("auto", "cuda", "mps", "cpu")
PLACEMENTS = {"pack": "DEFAULT", "spread": "SPREAD"}  # Ray's names


@checked
@dataclass(frozen=True)
class RayRunner:
    """Runs a study on Ray actors. Each actor holds the base network and the data, and runs one job at a time.

    Args:
        address: address of a Ray cluster: "auto" for a cluster on this machine, "ray://HOST:10001" for Ray's client, or
            "local" for a private session on this machine for the time of the run. None uses RAY_ADDRESS, which Ray
            jobs set, or else "local".
        num_workers: number of actors; None for as many as fit, including nodes that join during the run.
        gpus_per_worker: 0, 1 or a fraction of a GPU, of whose memory torch then takes no larger fraction; None for one
            if there are GPUs and none elsewhere.
        threads_per_worker: CPU cores of each actor.
        memory_per_worker: bytes reserved per actor in Ray's scheduler (not enforced); 0 reserves none.
        resources_per_worker: amounts of custom resources of each actor, by name.
        placement: "pack" for Ray's default, which fills a node to half before it uses the next one, or "spread" for as
            many nodes as possible. Ray guarantees neither.
        max_attempts: number of attempts at a job whose actor is lost. Losses together with a node do not count, unless
            there are four times as many.
        stall_seconds: time without a finished step (of a path) or forward pass (of an attack) after which a worker is
            killed and its job retried from its last checkpoint, which counts as one of `max_attempts`. The first step
            of an attempt, which may compile the network, has three times as long. None for never, since one step may
            rightly take hours; for unattended runs give a multiple of the slowest step.
        device: torch device of each worker: "auto" for the GPU that Ray assigned to it if there is one, and the CPU
            elsewhere; "cuda" for one GPU at least, "cpu" for none, or "mps".
        labels: labels of the nodes that actors may be placed on, each with one value or several, the preferred one
            first: `{"ray.io/accelerator-type": ("A100", "H100")}`. Where the first has no place, the next one serves.

    Raises:
        UsageError: for an invalid argument.
    """

    address: str | None = None
    num_workers: int | None = None
    gpus_per_worker: float | None = None
    threads_per_worker: int = 1
    memory_per_worker: int = 0
    resources_per_worker: Mapping[str, float] = field(default_factory=dict)
    placement: str = "pack"
    max_attempts: int = 3
    stall_seconds: float | None = None
    device: str = "auto"
    labels: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise UsageError(f"num_workers must be at least 1 or None, got {self.num_workers}")
        if self.max_attempts < 1:
            raise UsageError(f"max_attempts must be at least 1, got {self.max_attempts}")
        if self.placement not in PLACEMENTS:
            raise UsageError(f"unknown placement {self.placement!r}; available: {', '.join(PLACEMENTS)}")
        if self.device not in DEVICES:
            raise UsageError(f"unknown device {self.device!r}; available: {', '.join(DEVICES)}")
        if self.device == "cuda" and self.gpus_per_worker == 0:
            raise UsageError("device 'cuda' needs a GPU or a fraction of one per worker, got gpus_per_worker=0")
        check_stall_seconds(self.stall_seconds)
        _ = self._resources  # checks the rest

    @checked
    def run(
        self, study: Study, directory: str | Path, listener: Listener | None = None, changed: Changed = "stop"
    ) -> Store:
        """Run the jobs that a results directory still lacks, and return when all are done.

        Args:
            study: study to run.
            directory: results directory, or an address such as `s3://bucket/results` that all nodes can reach.
            listener: receives events; None for a silent run.
            changed: "stop" to refuse a directory that was made by another version of the user's own code, or "redo" to
                run again the jobs that depend on it.

        Returns:
            The store with all results.

        Raises:
            UsageError: before anything is written, if the cluster lacks the requested resources.
            RunError: if jobs failed; the results of the others are committed.
            ClusterLostError: if Ray's control process is gone; the same call resumes the run on a new cluster.
        """
        # One connection for the preflight and the run: each takes a second or more.
        with self.connected():
            return self._run(study, directory, listener, changed)

    def _run(self, study: Study, directory: str | Path, listener: Listener | None, changed: Changed) -> Store:
        capacity = self.preflight()  # before the queue, which creates the directory
        # Imported here because they load torch, which takes seconds: a refusal by the preflight must not wait for it.
        from fipray.cluster.metrics import RayMetrics
        from fipray.cluster.scheduler import run_jobs
        from fipray.execution.listeners import Listeners, Silent
        from fipray.execution.queue import Queue

        listener = Listeners([listener or Silent(), RayMetrics()])
        queue = Queue(study, directory, listener, changed)
        num_workers = min(capacity.num_workers, queue.num_waiting)
        if num_workers:  # a finished run needs no cluster
            if connection.starts_session(self.address):
                listener.note("starting Ray on this machine")
            with self.session():
                resources = capacity.resources
                gpus = f" with {resources.gpus:g} GPU each" if resources.gpus else ""
                nodes = f"{capacity.num_nodes} {'node' if capacity.num_nodes == 1 else 'nodes'}"
                workers = f"{num_workers} {'worker' if num_workers == 1 else 'workers'}"
                listener.note(f"starting {workers}{gpus} on {nodes}")
                run_jobs(
                    queue,
                    self.num_workers,
                    resources,
                    PLACEMENTS[self.placement],
                    self.max_attempts,
                    listener,
                    stall_seconds=self.stall_seconds,
                )
        return queue.close()

    def preflight(self) -> Capacity:
        """Check within seconds, without starting a worker, that the cluster has the requested resources.

        Returns:
            Workers that the cluster can hold.

        Raises:
            UsageError: with the available resources, if the cluster lacks the requested ones.
        """
        gpus = self.gpus_per_worker
        if gpus is None and self.device != "auto":
            gpus = float(self.device == "cuda")
        requested = self.num_workers, self._resources, gpus
        if connection.starts_session(self.address):
            return Capacity.of_machine(*requested)
        with self.session():
            return Capacity.of_cluster(*requested)

    def session(self) -> AbstractContextManager[None]:
        """Connect to the cluster inside this context; an open connection of this process is used and left open."""
        return connection.connect(self.address)

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the workers run in a private session on this machine."""
        return connection.starts_session(self.address)

    def connected(self) -> AbstractContextManager[None]:
        """Connect to a cluster inside this context; a private session on this machine is not started for it."""
        return nullcontext() if connection.starts_session(self.address) else self.session()

    @property
    def _resources(self) -> WorkerResources:
        gpus = self.gpus_per_worker or 0.0
        memory, custom = self.memory_per_worker, self.resources_per_worker
        labels = {key: (one,) if isinstance(one, str) else tuple(one) for key, one in self.labels.items()}
        return WorkerResources(self.threads_per_worker, gpus, memory, custom, self.device, labels)
