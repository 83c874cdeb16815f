"""The workers of a run: started, found to be there or lost, and ended."""

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

from fipray.cluster.actor import Failure
from fipray.cluster.causes import cause_of
from fipray.cluster.heart import Pulse
from fipray.cluster.place import Place
from fipray.errors import RunError

# One event shows as any of these, by chance; after any of them the work may or may not have been done.
LOST = (
    ray.exceptions.RayActorError,  # ActorDiedError, ActorUnavailableError
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
)
SET_UPS, SET_UP_SECONDS = 3, 1.0
CLOSE_SECONDS = 2.0


@dataclass(eq=False)
class Worker:
    """An actor, the number that people know it by, the key that it speaks under, and its place once it is set up."""

    number: int
    key: str
    actor: Any
    place: Place | None = None

    def __str__(self) -> str:
        return f"worker {self.number}"


class Fleet:
    """As many workers as are wanted and Ray finds a place for. One that has no place yet holds nobody up."""

    def __init__(self, actor_class: Any, arguments: tuple[object, ...], pulse: Pulse | None = None) -> None:
        self._class, self._arguments, self._pulse = actor_class, arguments, pulse
        self._serial = count(1)
        self._killing: list[threading.Thread] = []
        self._all: set[Worker] = set()
        self.idle: dict[int, Worker] = {}
        self.starting: dict[ray.ObjectRef, Worker] = {}
        self._failures, self._not_before = 0, 0.0

    def __len__(self) -> int:
        return len(self._all)

    def grow(self, wanted: int) -> None:
        """Begin to start workers until there are as many as wanted.

        After three failed set-ups in a row, no more are started until one succeeds, `nodes_joined`, or all are gone.
        """
        if not self._all:
            self._failures = min(self._failures, SET_UPS - 1)
        while len(self) < wanted and self._failures < SET_UPS and time.monotonic() >= self._not_before:
            taken = {worker.number for worker in self._all}
            key = self._pulse.key(next(self._serial)) if self._pulse else ""
            actor = self._class.remote(*self._arguments, self._pulse, key)
            worker = Worker(next(n for n in count(1) if n not in taken), key, actor)
            self._all.add(worker)
            self.starting[worker.actor.place.remote()] = worker

    def shrink(self, wanted: int) -> None:
        """End workers without work, those that have no place yet first, while there are more than wanted."""
        spare = [*list(self.starting.values())[::-1], *list(self.idle.values())[::-1]]
        for worker in spare[: max(len(self) - wanted, 0)]:
            self.end(worker)

    def arrived(self, ref: ray.ObjectRef) -> str | None:
        """Take a worker that was started as idle; returns what went wrong, where something did.

        Raises RunError when set-ups fail again and again and there is no other worker.
        """
        worker = self.starting.pop(ref)
        try:
            found = ray.get(ref)
        except ray.exceptions.RayError as error:
            found = Failure(cause_of(error))
        if isinstance(found, Failure):
            self.set_up_failed(worker, found.reason)
            return found.reason
        worker.place, self._failures = found, 0
        self.idle[worker.number] = worker
        return None

    def set_up_failed(self, worker: Worker, reason: str) -> None:
        """End a worker that could not be set up. Raises RunError when that was so again and again, and there is no
        other worker.
        """
        self.end(worker)
        now = time.monotonic()
        if now >= self._not_before:  # those that fail together, as on one node, failed once
            self._not_before = now + SET_UP_SECONDS * 2**self._failures
            self._failures += 1
        if self._failures >= SET_UPS and not self._all:
            raise RunError(f"no worker could be set up, {self._failures} times; the last time: {reason}")

    def nodes_joined(self) -> None:
        self._failures = 0

    def end_idle_on_lost_nodes(self, alive: Collection[str]) -> None:
        for worker in list(self.idle.values()):
            if worker.place and worker.place.node_id not in alive:
                self.end(worker)

    def end(self, worker: Worker) -> None:
        """Kill it, whether it lives or not."""
        self._all.discard(worker)
        self.idle.pop(worker.number, None)
        for ref in [ref for ref, starting in self.starting.items() if starting is worker]:
            del self.starting[ref]
        thread = threading.Thread(target=_kill, args=(worker.actor,), daemon=True)
        thread.start()
        self._killing = [other for other in self._killing if other.is_alive()] + [thread]

    def close(self) -> None:
        """End all workers; wait for that, but not for long."""
        for worker in list(self._all):
            self.end(worker)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._killing:
            thread.join(max(deadline - time.monotonic(), 0))


def _kill(actor: Any) -> None:
    """Never returns for an actor that was not there yet when the control process died: not to be called in a loop."""
    with suppress(Exception):
        ray.kill(actor)
