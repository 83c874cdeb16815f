"""Pool of worker actors: starting, losing and ending them."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
import ray.exceptions

from fipray.cluster.failure_causes import failure_cause
from fipray.cluster.heartbeats import HeartbeatChannel
from fipray.cluster.worker_actor import Failure, WorkerLocation
from fipray.errors import RunError

# One event surfaces as any of these, by a race inside Ray; after any of them the job may or may not have run.
LOST = (
    ray.exceptions.RayActorError,  # ActorDiedError and ActorUnavailableError
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
)
MAX_SET_UP_FAILURES, SET_UP_DELAY_SECONDS = 3, 1.0
CLOSE_SECONDS = 2.0


@dataclass(eq=False)
class WorkerHandle:
    """Driver's handle to a worker.

    Args:
        number: the smallest free number from 1, shown in messages.
        key: key of its heartbeats.
        actor: Ray's actor handle.
        location: location of its process, known once it is set up.
    """

    number: int
    key: str
    actor: Any
    location: WorkerLocation | None = None

    def __str__(self) -> str:
        return f"worker {self.number}"


class ActorPool:
    """Workers of a run. Placement is Ray's and takes its time; a worker without a place delays no other.

    Attributes:
        idle: workers without a job, by number.
        starting: workers that are not set up yet, by the reference to their set-up's result.

    Args:
        actor_class: actor class, wrapped by `ray.remote` with the resources of each worker.
        arguments: first arguments of its constructor; channel and key of the heartbeats follow.
        channel: channel for heartbeats; None for none.
    """

    def __init__(
        self, actor_class: Any, arguments: tuple[object, ...], channel: HeartbeatChannel | None = None
    ) -> None:
        self._class, self._arguments, self._channel = actor_class, arguments, channel
        self._serial = count(1)
        self._killers: list[threading.Thread] = []
        self._all: set[WorkerHandle] = set()
        self.idle: dict[int, WorkerHandle] = {}
        self.starting: dict[ray.ObjectRef, WorkerHandle] = {}
        self._num_failures, self._not_before = 0, 0.0

    def __len__(self) -> int:
        return len(self._all)

    def grow(self, target: int) -> None:
        """Start workers until there are `target`.

        After three failed set-ups in a row no more are started until a set-up succeeds, `nodes_joined` is called, or
        no worker is left.

        Args:
            target: number of workers.
        """
        if not self._all:  # without any worker allow one more attempt; if it fails, the run ends
            self._num_failures = min(self._num_failures, MAX_SET_UP_FAILURES - 1)
        while len(self) < target and self._num_failures < MAX_SET_UP_FAILURES and time.monotonic() >= self._not_before:
            taken = {worker.number for worker in self._all}
            # Numbers are used again, keys never: a late heartbeat of a lost worker must not count for its successor.
            key = self._channel.key(next(self._serial)) if self._channel else ""
            actor = self._class.remote(*self._arguments, self._channel, key)
            worker = WorkerHandle(next(n for n in count(1) if n not in taken), key, actor)
            self._all.add(worker)
            self.starting[worker.actor.set_up.remote()] = worker

    def shrink(self, target: int) -> None:
        """End workers without a job, first those that are still starting, while there are more than `target`.

        Args:
            target: number of workers.
        """
        # The newest first: of those that start, the oldest are closest to being ready.
        spare = [*list(self.starting.values())[::-1], *list(self.idle.values())[::-1]]
        for worker in spare[: max(len(self) - target, 0)]:
            self.end(worker)

    def finish_start(self, ref: ray.ObjectRef) -> str | None:
        """Take the result of a set-up and make the worker idle.

        Args:
            ref: a key of `starting` whose result is ready.

        Returns:
            The reason if the set-up failed; None if it succeeded.

        Raises:
            RunError: after repeated failures, if there is no other worker.
        """
        worker = self.starting.pop(ref)
        try:
            result = ray.get(ref)
        except ray.exceptions.RayError as error:
            result = Failure(failure_cause(error))
        if isinstance(result, Failure):
            self.set_up_failed(worker, result.reason)
            return result.reason
        worker.location, self._num_failures = result, 0
        self.idle[worker.number] = worker
        return None

    def set_up_failed(self, worker: WorkerHandle, reason: str) -> None:
        """End a worker whose set-up failed, and delay the next start.

        Args:
            worker: the worker.
            reason: the reason, for the error message.

        Raises:
            RunError: after repeated failures, if there is no other worker.
        """
        self.end(worker)
        now = time.monotonic()
        if now >= self._not_before:  # workers that fail together, as on one broken node, count as one failure
            self._not_before = now + SET_UP_DELAY_SECONDS * 2**self._num_failures
            self._num_failures += 1
        if self._num_failures >= MAX_SET_UP_FAILURES and not self._all:
            raise RunError(f"no worker could be set up after {self._num_failures} attempts; last error: {reason}")

    def nodes_joined(self) -> None:
        """Forget failed set-ups, since new nodes may do better."""
        self._num_failures = 0

    def end_idle_on_lost_nodes(self, alive: Collection[str]) -> None:
        """End idle workers whose node is gone; of busy ones Ray reports it.

        Args:
            alive: IDs of the nodes that are alive.
        """
        for worker in list(self.idle.values()):
            if worker.location and worker.location.node_id not in alive:
                self.end(worker)

    def end(self, worker: WorkerHandle) -> None:
        """Kill a worker, dead or alive, and remove it from the pool.

        Args:
            worker: the worker.
        """
        self._all.discard(worker)
        self.idle.pop(worker.number, None)
        for ref in [ref for ref, starting in self.starting.items() if starting is worker]:
            del self.starting[ref]
        # In a thread: for an actor that was not placed yet when the control process died, ray.kill never returns.
        thread = threading.Thread(target=_kill, args=(worker.actor,), daemon=True)
        thread.start()
        self._killers = [other for other in self._killers if other.is_alive()] + [thread]

    def close(self) -> None:
        """End all workers, and wait up to two seconds for that."""
        for worker in list(self._all):
            self.end(worker)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._killers:
            thread.join(max(deadline - time.monotonic(), 0))


def _kill(actor: Any) -> None:
    with suppress(Exception):
        ray.kill(actor)
