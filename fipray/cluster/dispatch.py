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
from fipray.execution.jobs import Job, Tables, last_saved_step
from fipray.execution.listeners import Listener
from fipray.execution.queue import Queue

TICK_SECONDS = 1.0
COMMIT_SECONDS = 0.1  # between commits: what ends meanwhile shares one, which is faster, and fewer files
PATIENCE_SECONDS = 20.0
LOOKING = 0.02  # at most this part of the driver's time goes into looking how far paths are


def work_off(
    queue: Queue,
    num_workers: int | None,
    share: Share,
    placement: str,
    max_attempts: int,
    listener: Listener,
    actor_class: type[Actor] = Actor,
    stall_seconds: float | None = None,
) -> None:
    """Works off the agenda with `num_workers` actors, or as many as fit at each moment.

    Ends those that make no progress for `stall_seconds`.

    Raises RunError where actors cannot be set up, ClusterLostError where the cluster's control process is gone.
    """
    everything = parcel.put(queue.payload, listener.note)
    options = {**share.options, "scheduling_strategy": placement, "max_restarts": 0}
    stalls = Stalls(stall_seconds) if stall_seconds else None
    lookout = Lookout(share, stalls.pulse() if stalls else None)
    arguments = (everything, queue.store.location, share.cpus)
    fleet = Fleet(ray.remote(**options)(actor_class), arguments, lookout.pulse)
    with lookout:
        try:
            _Dispatch(queue, fleet, num_workers, share, Retries(max_attempts), listener, lookout, stalls).run()
        finally:
            fleet.close()  # also after Ctrl-C: in a session that goes on they would work on


class _Dispatch:
    """The driver's loop. A worker has one work at a time, so that none queues where it could be lost or held up."""

    def __init__(
        self,
        queue: Queue,
        fleet: Fleet,
        num_workers: int | None,
        share: Share,
        retries: Retries,
        listener: Listener,
        lookout: Lookout,
        stalls: Stalls | None,
    ) -> None:
        self._queue, self._fleet, self._retries, self._listener = queue, fleet, retries, listener
        self._asked, self._share, self._lookout, self._stalls = num_workers, share, lookout, stalls
        self._view = lookout.view
        self._running: dict[ray.ObjectRef, tuple[Worker, Job]] = {}
        self._done: list[tuple[Job, Tables]] = []  # and not committed yet
        self._next_look = self._next_commit = 0.0
        self._patience, self._said = time.monotonic() + PATIENCE_SECONDS, ""

    def run(self) -> None:
        try:
            self._run()
        except ClusterLostError:
            # At once: to leave a cluster without its control process takes its time.
            self._listener.note("Ray's control process (GCS) does not answer any more: the run is ended")
            self._queue.commit_all(self._done)
            raise

    def _run(self) -> None:
        while left := self._queue.num_waiting + len(self._retries) + len(self._running) + len(self._done):
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
                self._queue.commit_all(self._done)
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
            self._listener.note(f"{worker} was not set up within {stall.seconds:.0f} s, and was ended")
            self._fleet.set_up_failed(worker, f"it was not set up within {stall.seconds:.0f} s")
            return
        worker, job = self._running.pop(ref)
        self._lose(worker, job, str(stall))

    def _give(self) -> None:
        """Work for idle workers: first what was lost, and is due again."""
        while self._fleet.idle:
            number = min(self._fleet.idle)
            worker = self._fleet.idle[number]
            if job := self._again(str(worker)) or self._queue.next(str(worker)):
                del self._fleet.idle[number]
                ref = worker.actor.carry_out.remote(parcel.packed(job))
                self._running[ref] = worker, job
            else:
                return

    def _again(self, where: str) -> Job | None:
        # Which nodes are lost is judged by what was seen when the wait was over, not before.
        while due := self._retries.pop(self._view.at, self._view.nodes):
            if not isinstance(due, GivenUp):
                return self._queue.again(due, where)
            self._queue.fail(due.job, due.reason)
        return None

    def _take(self) -> list[tuple[Job, Tables]]:
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

    def _taken(self, ref: ray.ObjectRef) -> tuple[Job, Tables] | None:
        if ref in self._fleet.starting:
            if wrong := self._fleet.arrived(ref):
                self._listener.note(f"a worker could not be set up: {wrong}")
            return None
        worker, job = self._running.pop(ref)
        try:
            made: Tables | Failure = ray.get(ref)
        except LOST as error:
            self._lose(worker, job, cause_of(error, worker.place))
            return None
        except ray.exceptions.RayError as error:
            made = Failure(cause_of(error))
        self._fleet.idle[worker.number] = worker
        if isinstance(made, Failure):
            self._queue.fail(job, made.reason)
            return None
        return job, made

    def _lose(self, worker: Worker, job: Job, cause: str) -> None:
        """End a worker, and have its work wait for another one."""
        self._fleet.end(worker)
        loss = Loss(worker.place.node_id if worker.place else None, f"{cause}; {worker} was {worker.place}")
        seconds = self._retries.add(job, loss, time.monotonic())
        self._listener.note(f"{worker} was lost with {job.label}: {cause}. It is tried again in {seconds:g} s")

    def _look(self) -> None:
        """Tell the watch how far paths are, unless looking takes too long."""
        began = time.monotonic()
        if began >= self._next_look:
            for _, job in self._running.values():
                self._listener.progressed(job, last_saved_step(self._queue.store, job))
            ended = time.monotonic()
            self._next_look = ended + (ended - began) / LOOKING

    def _say_what_is_waited_for(self) -> None:
        self._patience = time.monotonic() + PATIENCE_SECONDS
        if not self._fleet.starting and len(self._fleet):
            return
        sentence = pending(max(len(self._fleet), 1), self._share, self._view.nodes)
        if sentence != self._said:
            self._said = sentence
            self._listener.note(sentence)
