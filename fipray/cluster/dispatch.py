"""Gives the work of an agenda to Ray actors, and takes back what they made."""

from __future__ import annotations

import time

import ray
import ray.exceptions

from fipray.cluster import parcel
from fipray.cluster.actor import Actor
from fipray.cluster.capacity import alive_nodes, pending, workers_that_fit
from fipray.cluster.fleet import LOST, Fleet, Worker
from fipray.cluster.retries import GivenUp, Loss, Retries
from fipray.cluster.share import Share
from fipray.errors import FiprayError
from fipray.study.runner import Agenda
from fipray.study.watch import Watch
from fipray.study.work import Tables, Work, steps_walked

TICK_SECONDS = 1.0
NODES_SECONDS = 2.0
COMMIT_SECONDS = 0.1  # between commits: what ends meanwhile shares one, which is faster, and fewer files
PATIENCE_SECONDS = 20.0
LOOKING = 0.02  # at most this part of the driver's time goes into looking how far paths are


def work_off(
    agenda: Agenda,
    num_workers: int | None,
    share: Share,
    placement: str,
    max_attempts: int,
    watch: Watch,
    actor_class: type[Actor] = Actor,
) -> None:
    """Works off the agenda with `num_workers` actors, or as many as fit at each moment.

    Raises RunError where actors cannot be set up.
    """
    everything = parcel.put(agenda.material, watch.note)
    options = {**share.options, "scheduling_strategy": placement, "max_restarts": 0}
    fleet = Fleet(ray.remote(**options)(actor_class), everything, agenda.store.location, share.cpus)
    try:
        _Dispatch(agenda, fleet, num_workers, share, Retries(max_attempts), watch).run()
    finally:
        fleet.close()  # also after Ctrl-C: in a session that goes on they would work on


class _Dispatch:
    """The driver's loop. A worker has one work at a time, so that none queues where it could be lost or held up."""

    def __init__(
        self, agenda: Agenda, fleet: Fleet, num_workers: int | None, share: Share, retries: Retries, watch: Watch
    ) -> None:
        self._agenda, self._fleet, self._retries, self._watch = agenda, fleet, retries, watch
        self._asked, self._share, self._fit = num_workers, share, 0
        self._running: dict[ray.ObjectRef, tuple[Worker, Work]] = {}
        self._done: list[tuple[Work, Tables]] = []  # and not committed yet
        self._nodes: set[str] = set()
        self._next_nodes = self._next_look = self._next_commit = 0.0
        self._patience, self._said = time.monotonic() + PATIENCE_SECONDS, ""

    def run(self) -> None:
        while left := self._agenda.num_waiting + len(self._retries) + len(self._running) + len(self._done):
            if time.monotonic() >= self._next_nodes:
                self._see_nodes()
            self._fleet.grow(min(self._fit if self._asked is None else self._asked, left))
            self._fleet.shrink(left)
            self._give()
            if self._fleet.idle and not (self._running or self._retries or self._done):
                return  # what is left could never begin
            self._done += self._take()
            self._give()  # before the commits, so that workers do not wait for the disk
            if self._done and (not self._running or time.monotonic() >= self._next_commit):
                self._agenda.commit_all(self._done)
                self._done = []
                self._next_commit = time.monotonic() + COMMIT_SECONDS

    def _see_nodes(self) -> None:
        """Which nodes there are: workers come with them and go with them."""
        nodes = set(alive_nodes())
        if nodes - self._nodes:
            self._fleet.nodes_joined()
        self._fleet.end_idle_on_lost_nodes(nodes)
        self._nodes, self._fit = nodes, workers_that_fit(self._share)
        self._next_nodes = time.monotonic() + NODES_SECONDS

    def _give(self) -> None:
        """Work for idle workers: first what was lost, and is due again."""
        while self._fleet.idle:
            number = min(self._fleet.idle)
            worker = self._fleet.idle[number]
            if work := self._again(str(worker)) or self._agenda.next(str(worker)):
                del self._fleet.idle[number]
                ref = worker.actor.carry_out.remote(parcel.packed(work))
                self._running[ref] = worker, work
            else:
                return

    def _again(self, where: str) -> Work | None:
        now = time.monotonic()
        if not self._retries.has_due(now):
            return None
        alive = alive_nodes()
        while due := self._retries.pop(now, alive):
            if not isinstance(due, GivenUp):
                return self._agenda.again(due, where)
            self._agenda.fail(due.work, due.reason)
        return None

    def _take(self) -> list[tuple[Work, Tables]]:
        """What has been done meanwhile, to be committed; waits for it for a second at most."""
        refs = [*self._running, *self._fleet.starting]
        if not refs:
            time.sleep(TICK_SECONDS / 10)
        elif ray.wait(refs, timeout=COMMIT_SECONDS if self._done else TICK_SECONDS)[0]:
            self._patience = time.monotonic() + PATIENCE_SECONDS
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            return [made for ref in done if (made := self._taken(ref))]
        else:
            self._look()
        if time.monotonic() > self._patience:
            self._say_what_is_waited_for()
        return []

    def _taken(self, ref: ray.ObjectRef) -> tuple[Work, Tables] | None:
        if ref in self._fleet.starting:
            if wrong := self._fleet.arrived(ref):
                self._watch.note(f"a worker could not be set up: {_short(wrong)}")
            return None
        worker, work = self._running.pop(ref)
        try:
            tables: Tables = ray.get(ref)
        except LOST as error:
            self._fleet.end(worker)
            loss = Loss(
                worker.place.node_id if worker.place else None,
                f"{worker} ({worker.place}): {type(error).__name__}: {_short(error)}",
            )
            seconds = self._retries.add(work, loss, time.monotonic())
            self._watch.note(f"{worker} was lost with {work.label}, which is tried again in {seconds:g} s")
            return None
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            said = isinstance(cause, FiprayError)  # a sentence for people; all else needs its traceback
            self._agenda.fail(work, str(cause if said else error))
            self._fleet.idle[worker.number] = worker
            return None
        self._fleet.idle[worker.number] = worker
        return work, tables

    def _look(self) -> None:
        """Tell the watch how far paths are, unless looking takes too long."""
        began = time.monotonic()
        if began >= self._next_look:
            for _, work in self._running.values():
                self._watch.walked(work, steps_walked(self._agenda.store, work))
            ended = time.monotonic()
            self._next_look = ended + (ended - began) / LOOKING

    def _say_what_is_waited_for(self) -> None:
        self._patience = time.monotonic() + PATIENCE_SECONDS
        if not self._fleet.starting and len(self._fleet):
            return
        sentence = pending(max(len(self._fleet), 1), self._share)
        if sentence != self._said:
            self._said = sentence
            self._watch.note(sentence)


def _short(error: object) -> str:
    """A failure in one line: its beginning and its end, 600 letters."""
    line = "; ".join(stripped for part in str(error).splitlines() if (stripped := part.strip()))
    return line if len(line) <= 600 else f"{line[:250]} ... {line[-345:]}"
