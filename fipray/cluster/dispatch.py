"""Gives the work of an agenda to Ray actors, and takes back what they made."""

from __future__ import annotations

import time

import ray
import ray.exceptions

from fipray.cluster import parcel
from fipray.cluster.actor import Actor, Failure
from fipray.cluster.capacity import pending
from fipray.cluster.causes import cause_of
from fipray.cluster.fleet import LOST, Fleet, Worker
from fipray.cluster.lookout import Lookout, View
from fipray.cluster.retries import GivenUp, Loss, Retries
from fipray.cluster.share import Share
from fipray.cluster.stalls import Stall, Stalls
from fipray.errors import ClusterLostError
from fipray.study.runner import Agenda
from fipray.study.watch import Watch
from fipray.study.work import Tables, Work, steps_walked

TICK_SECONDS = 1.0
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
    stall_seconds: float | None = None,
) -> None:
    """Works off the agenda with `num_workers` actors, or as many as fit at each moment.

    Ends those that make no progress for `stall_seconds`.

    Raises RunError where actors cannot be set up, ClusterLostError where the cluster's control process is gone.
    """
    everything = parcel.put(agenda.material, watch.note)
    options = {**share.options, "scheduling_strategy": placement, "max_restarts": 0}
    stalls = Stalls(stall_seconds) if stall_seconds else None
    lookout = Lookout(share, stalls.pulse() if stalls else None)
    arguments = (everything, agenda.store.location, share.cpus)
    fleet = Fleet(ray.remote(**options)(actor_class), arguments, lookout.pulse)
    with lookout:
        try:
            _Dispatch(agenda, fleet, num_workers, share, Retries(max_attempts), watch, lookout, stalls).run()
        finally:
            fleet.close()  # also after Ctrl-C: in a session that goes on they would work on


class _Dispatch:
    """The driver's loop. A worker has one work at a time, so that none queues where it could be lost or held up."""

    def __init__(
        self,
        agenda: Agenda,
        fleet: Fleet,
        num_workers: int | None,
        share: Share,
        retries: Retries,
        watch: Watch,
        lookout: Lookout,
        stalls: Stalls | None,
    ) -> None:
        self._agenda, self._fleet, self._retries, self._watch = agenda, fleet, retries, watch
        self._asked, self._share, self._lookout, self._stalls = num_workers, share, lookout, stalls
        self._view = lookout.view
        self._running: dict[ray.ObjectRef, tuple[Worker, Work]] = {}
        self._done: list[tuple[Work, Tables]] = []  # and not committed yet
        self._next_look = self._next_commit = 0.0
        self._patience, self._said = time.monotonic() + PATIENCE_SECONDS, ""

    def run(self) -> None:
        try:
            self._run()
        except ClusterLostError:
            # At once: to leave a cluster without its control process takes its time.
            self._watch.note("Ray's control process (GCS) does not answer any more: the run is ended")
            self._agenda.commit_all(self._done)
            raise

    def _run(self) -> None:
        while left := self._agenda.num_waiting + len(self._retries) + len(self._running) + len(self._done):
            self._lookout.check()
            if self._view is not self._lookout.view:
                self._see(self._lookout.view)
            self._fleet.grow(min(self._view.fit if self._asked is None else self._asked, left))
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

    def _see(self, view: View) -> None:
        """Workers come with nodes and go with them, and those that stall are ended."""
        if view.nodes.keys() - self._view.nodes.keys():
            self._fleet.nodes_joined()
        self._fleet.end_idle_on_lost_nodes(view.nodes)
        self._view = view
        if self._stalls:
            busy = {worker.key: ref for ref, (worker, _) in self._running.items()}
            busy |= {worker.key: ref for ref, worker in self._fleet.starting.items()}
            for key, stall in self._stalls.look(view.at, view.beats, busy).items():
                self._end_stalled(busy[key], stall)
            self._lookout.watched = tuple(busy)

    def _end_stalled(self, ref: ray.ObjectRef, stall: Stall) -> None:
        if ref not in self._running:
            worker = self._fleet.starting[ref]
            self._watch.note(f"{worker} was not set up within {stall.seconds:.0f} s, and was ended")
            self._fleet.set_up_failed(worker, f"it was not set up within {stall.seconds:.0f} s")
            return
        worker, work = self._running.pop(ref)
        self._lose(worker, work, str(stall))

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
        # Which nodes are lost is judged by what was seen when the wait was over, not before.
        while due := self._retries.pop(self._view.at, self._view.nodes):
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
                self._watch.note(f"a worker could not be set up: {wrong}")
            return None
        worker, work = self._running.pop(ref)
        try:
            made: Tables | Failure = ray.get(ref)
        except LOST as error:
            self._lose(worker, work, cause_of(error, worker.place))
            return None
        except ray.exceptions.RayError as error:
            made = Failure(cause_of(error))
        self._fleet.idle[worker.number] = worker
        if isinstance(made, Failure):
            self._agenda.fail(work, made.reason)
            return None
        return work, made

    def _lose(self, worker: Worker, work: Work, cause: str) -> None:
        """End a worker, and have its work wait for another one."""
        self._fleet.end(worker)
        loss = Loss(worker.place.node_id if worker.place else None, f"{cause}; {worker} was {worker.place}")
        seconds = self._retries.add(work, loss, time.monotonic())
        self._watch.note(f"{worker} was lost with {work.label}: {cause}. It is tried again in {seconds:g} s")

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
        sentence = pending(max(len(self._fleet), 1), self._share, self._view.nodes)
        if sentence != self._said:
            self._said = sentence
            self._watch.note(sentence)
