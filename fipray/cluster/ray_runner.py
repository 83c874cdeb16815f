"""Carries out a study on Ray actors: on this machine, or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fipray.border import checked
from fipray.cluster import session
from fipray.cluster.capacity import Capacity
from fipray.cluster.share import Share
from fipray.cluster.stalls import check_stall_seconds
from fipray.errors import UsageError

if TYPE_CHECKING:  # what loads torch is loaded when a run begins: a cluster that is too small says so before
    from fipray.execution import Listener
    from fipray.execution.changed import Changed
    from fipray.records import Store
    from fipray.study import Study

PLACEMENTS = {"pack": "DEFAULT", "spread": "SPREAD"}  # Ray's names


@checked
@dataclass(frozen=True)
class RayRunner:
    """One actor a slot; each holds the base network and the data, and carries out one spec at a time.

    address: of a Ray cluster; "auto" for the one on this machine, "ray://HOST:10001" for Ray's client, "local" for a
        private one on this machine for as long as the run takes. None: what RAY_ADDRESS names, as in a Ray job, or
        else "local".
    num_workers: actors; by default as many as fit, also on nodes that join while it runs.
    gpus_per_worker: a whole number of GPUs or a fraction of one; by default one where there are GPUs, none elsewhere.
    threads_per_worker: CPU cores of each actor.
    memory_per_worker: bytes that Ray keeps free on the node for each actor, counted, not enforced; 0 for no such care.
    resources_per_worker: amounts of custom resources, by name.
    placement: "pack" as Ray does by default: a node is filled to half, and then the next; "spread": actors go to as
        many nodes as there are. Neither is a promise.
    max_attempts: how often one spec is tried when its actor is lost. Losses for which a node was lost do not count,
        unless there are four times as many.
    stall_seconds: work that finishes no step (of a path) and no forward pass (of an attack) for as long is named, its
        worker is killed, and it is tried again from its last kept point, which counts as one of `max_attempts`. Until
        the first step of an attempt three times as long may pass, as it may compile the network. None: never, because a
        single step may rightly take hours; where nobody watches, give a multiple of the slowest step.

    Raises UsageError, before anything is written, when the cluster lacks what is asked.
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

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise UsageError(f"at least one worker is needed; num_workers={self.num_workers} was given")
        if self.max_attempts < 1:
            raise UsageError(f"max_attempts is at least 1; {self.max_attempts} was given")
        if self.placement not in PLACEMENTS:
            raise UsageError(f"there is no placement {self.placement!r}; there are: {', '.join(PLACEMENTS)}")
        check_stall_seconds(self.stall_seconds)
        _ = self._share

    @checked
    def run(
        self, study: Study, directory: str | Path, listener: Listener | None = None, changed: Changed = "stop"
    ) -> Store:
        """Returns when all is there. Raises RunError when some of it failed; the rest is there then.

        changed: where the directory was made by other code of the user's own, "stop", or "redo" what depends on it.
        """
        capacity = self.preflight()
        from fipray.cluster.dispatch import work_off
        from fipray.cluster.metrics import RayMetrics
        from fipray.execution.listeners import Listeners, Silent
        from fipray.execution.queue import Queue

        listener = Listeners([listener or Silent(), RayMetrics()])
        queue = Queue(study, directory, listener, changed)
        slots = min(capacity.num_workers, queue.num_waiting)
        if slots:
            if session.is_to_be_started(self.address):
                listener.note("starting Ray on this machine")
            with self.session():
                share = capacity.share
                gpus = f" with {share.gpus:g} GPU each" if share.gpus else ""
                nodes = f"{capacity.num_nodes} {'node' if capacity.num_nodes == 1 else 'nodes'}"
                listener.note(f"{slots} {'worker' if slots == 1 else 'workers'}{gpus} on {nodes}")
                work_off(
                    queue,
                    self.num_workers,
                    share,
                    PLACEMENTS[self.placement],
                    self.max_attempts,
                    listener,
                    stall_seconds=self.stall_seconds,
                )
        return queue.close()

    def preflight(self) -> Capacity:
        """What the cluster can give to this runner, asked in seconds and without starting anything.

        Raises UsageError, with what there is, when it is too little.
        """
        asked = self.num_workers, self._share, self.gpus_per_worker
        if session.is_to_be_started(self.address):
            return Capacity.of_machine(*asked)
        with self.session():
            return Capacity.of_cluster(*asked)

    def session(self) -> AbstractContextManager[None]:
        """A connection to the cluster; the one that is there already, where there is one."""
        return session.session(self.address)

    @property
    def _share(self) -> Share:
        gpus = self.gpus_per_worker or 0.0
        return Share(self.threads_per_worker, gpus, self.memory_per_worker, self.resources_per_worker)
