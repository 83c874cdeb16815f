"""Scheduler: assigns the jobs of a queue to Ray actors, and collects their results."""

from __future__ import annotations

import time

import ray
import ray.exceptions

from fipray.cluster import pickling
from fipray.cluster.actors import LOST, ActorPool, WorkerHandle
from fipray.cluster.capacity import describe_wait
from fipray.cluster.failure_causes import failure_cause
from fipray.cluster.heartbeats import progress_channel, report_progress
from fipray.cluster.monitor import ClusterMonitor, ClusterSnapshot
from fipray.cluster.resources import WorkerResources
from fipray.cluster.retries import Exhausted, Loss, Retries
from fipray.cluster.stalls import Stall, StallDetector
from fipray.cluster.worker_actor import Actor, Failure
from fipray.errors import ClusterLostError
from fipray.execution.jobs import Job, Tables, last_saved_step
from fipray.execution.listeners import Listener
from fipray.execution.queue import Queue

TICK_SECONDS = 1.0
COMMIT_SECONDS = 0.1  # between commits; jobs that finish meanwhile share one, for fewer files and requests
NOTICE_SECONDS = 20.0  # without a result, after which the scheduler reports what it waits for
MOST_WATCHED = 50  # heartbeats read at a time: each is a request to the control process, so more are read in turns
POLLING_FRACTION = 0.02  # of the driver's time, at most, for polling the progress of running paths


def run_jobs(
    queue: Queue,
    num_workers: int | None,
    resources: WorkerResources,
    placement: str,
    max_attempts: int,
    listener: Listener,
    actor_class: type[Actor] = Actor,
    stall_seconds: float | None = None,
) -> None:
    """Run the jobs of a queue on Ray actors until none is left.

    Args:
        queue: jobs, and the store to commit their results to.
        num_workers: number of actors; None for as many as fit at any time.
        resources: resources of each actor.
        placement: Ray's scheduling strategy, "DEFAULT" or "SPREAD".
        max_attempts: number of attempts at a job whose worker is lost.
        listener: receives events.
        actor_class: class of the actors, for benchmarks of the scheduler alone.
        stall_seconds: time without progress after which a worker is killed; None for never.

    Raises:
        RunError: if no actor can be set up.
        ClusterLostError: if Ray's control process is gone.
    """
    payload = pickling.put(queue.payload, listener.note)
    # No restarts by Ray: a restarted actor would not be set up, and the pool replaces lost actors anyway.
    options = {**resources.actor_options, "scheduling_strategy": placement, "max_restarts": 0}
    detector = StallDetector(stall_seconds) if stall_seconds else None
    monitor = ClusterMonitor(resources, detector.channel() if detector else progress_channel())
    arguments = (payload, queue.store.location, resources.cpus, resources.device)
    pool = ActorPool(ray.remote(**options)(actor_class), arguments, monitor.channel)
    with monitor:
        try:
            _Scheduler(queue, pool, num_workers, resources, Retries(max_attempts), listener, monitor, detector).run()
        finally:
            pool.close()  # also after Ctrl-C: in a session that stays open the actors would go on working


class _Scheduler:
    """Event loop of the driver. A worker has one job at a time, so that none waits at a worker that is lost or slow."""

    def __init__(
        self,
        queue: Queue,
        pool: ActorPool,
        num_workers: int | None,
        resources: WorkerResources,
        retries: Retries,
        listener: Listener,
        monitor: ClusterMonitor,
        detector: StallDetector | None,
    ) -> None:
        self._queue, self._pool, self._retries, self._listener = queue, pool, retries, listener
        self._num_workers, self._resources, self._monitor, self._detector = num_workers, resources, monitor, detector
        self._snapshot = monitor.snapshot
        self._running: dict[ray.ObjectRef, tuple[WorkerHandle, Job]] = {}
        self._finished: list[tuple[Job, Tables]] = []  # and not committed yet
        self._next_poll = self._next_commit = 0.0
        self._turn = 0  # of the workers whose heartbeats are read
        self._next_notice, self._last_notice = time.monotonic() + NOTICE_SECONDS, ""

    def run(self) -> None:
        try:
            self._run()
        except ClusterLostError:
            # Before the session is left, which takes some seconds without a control process.
            self._listener.note("Ray's control process (GCS) does not answer any more: ending the run")
            self._queue.commit_all(self._finished)
            raise

    def _run(self) -> None:
        while num_left := self._queue.num_waiting + len(self._retries) + len(self._running) + len(self._finished):
            self._monitor.check()
            if self._snapshot is not self._monitor.snapshot:
                self._update(self._monitor.snapshot)
            self._pool.grow(
                min(self._snapshot.num_fitting if self._num_workers is None else self._num_workers, num_left)
            )
            self._pool.shrink(num_left)
            self._assign()
            if self._pool.idle and not (self._running or self._retries or self._finished):
                return  # the remaining jobs depend on failed ones
            self._finished += self._collect()
            self._assign()  # before the commit, so that workers do not wait for the disk
            if self._finished and (not self._running or time.monotonic() >= self._next_commit):
                self._queue.commit_all(self._finished)
                self._finished = []
                self._next_commit = time.monotonic() + COMMIT_SECONDS

    def _update(self, snapshot: ClusterSnapshot) -> None:
        """React to nodes that joined or left, and end workers that stall."""
        busy = {worker.key: ref for ref, (worker, _) in self._running.items()}
        for worker, job in self._running.values():
            report_progress(snapshot.beats.get(worker.key), job, self._listener)
        if snapshot.nodes.keys() - self._snapshot.nodes.keys():
            self._pool.nodes_joined()
        self._pool.end_idle_on_lost_nodes(snapshot.nodes)
        self._snapshot = snapshot
        if not self._detector:
            keys, first = tuple(busy), self._turn % max(len(busy), 1)
            self._monitor.watched = (keys[first:] + keys[:first])[:MOST_WATCHED]
            self._turn = first + MOST_WATCHED
        else:
            busy |= {worker.key: ref for ref, worker in self._pool.starting.items()}
            for key, stall in self._detector.update(snapshot.time, snapshot.beats, busy).items():
                self._end_stalled(busy[key], stall)
            self._monitor.watched = tuple(busy)

    def _end_stalled(self, ref: ray.ObjectRef, stall: Stall) -> None:
        if ref not in self._running:
            worker = self._pool.starting[ref]
            self._listener.note(f"{worker} was not set up within {stall.seconds:.0f} s and was killed")
            self._pool.set_up_failed(worker, f"it was not set up within {stall.seconds:.0f} s")
            return
        worker, job = self._running.pop(ref)
        self._handle_loss(worker, job, str(stall))

    def _assign(self) -> None:
        """Assign jobs to idle workers, beginning with retries that are due."""
        while self._pool.idle:
            number = min(self._pool.idle)
            worker = self._pool.idle[number]
            if job := self._next_retry(str(worker)) or self._queue.next(str(worker)):
                del self._pool.idle[number]
                ref = worker.actor.carry_out.remote(pickling.dumps(job))
                self._running[ref] = worker, job
            else:
                return

    def _next_retry(self, where: str) -> Job | None:
        # By the snapshot's time, not the clock: the loss of a node must be visible by the time its jobs are judged.
        while due := self._retries.pop(self._snapshot.time, self._snapshot.nodes):
            if not isinstance(due, Exhausted):
                return self._queue.again(due, where)
            self._queue.fail(due.job, due.reason)
        return None

    def _collect(self) -> list[tuple[Job, Tables]]:
        """Results that are ready; waits for one at most a second."""
        refs = [*self._running, *self._pool.starting]
        if not refs:
            time.sleep(TICK_SECONDS / 10)  # waiting for a retry, or for a node that can hold a worker
        elif ray.wait(refs, timeout=COMMIT_SECONDS if self._finished else TICK_SECONDS)[0]:
            self._next_notice = time.monotonic() + NOTICE_SECONDS
            # The first wait returns a single result; all others that are ready come with it, for one commit.
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            return [result for ref in ready if (result := self._take(ref))]
        else:
            self._poll()
        if time.monotonic() > self._next_notice:
            self._report_wait()
        return []

    def _take(self, ref: ray.ObjectRef) -> tuple[Job, Tables] | None:
        if ref in self._pool.starting:
            if reason := self._pool.finish_start(ref):
                self._listener.note(f"a worker could not be set up: {reason}")
            return None
        worker, job = self._running.pop(ref)
        try:
            result: Tables | Failure = ray.get(ref)
        except LOST as error:
            self._handle_loss(worker, job, failure_cause(error, worker.location))
            return None
        except ray.exceptions.RayError as error:  # the worker is still alive
            result = Failure(failure_cause(error))
        self._pool.idle[worker.number] = worker
        if isinstance(result, Failure):
            self._queue.fail(job, result.reason)
            return None
        return job, result

    def _handle_loss(self, worker: WorkerHandle, job: Job, cause: str) -> None:
        """End a worker and schedule another attempt at its job."""
        self._pool.end(worker)
        node_id = worker.location.node_id if worker.location else None
        loss = Loss(node_id, f"{cause}; {worker} was {worker.location}")
        seconds = self._retries.add(job, loss, time.monotonic())
        self._listener.note(f"{worker} was lost while running {job.label}: {cause}. Retrying in {seconds:g} s")

    def _poll(self) -> None:
        """Report the progress of running paths, unless that takes too much time."""
        began = time.monotonic()
        if began >= self._next_poll:
            for _, job in self._running.values():
                self._listener.progressed(job, last_saved_step(self._queue.store, job))
            ended = time.monotonic()
            self._next_poll = ended + (ended - began) / POLLING_FRACTION

    def _report_wait(self) -> None:
        self._next_notice = time.monotonic() + NOTICE_SECONDS
        if not self._pool.starting and len(self._pool):
            return
        notice = describe_wait(max(len(self._pool), 1), self._resources, self._snapshot.nodes)
        if notice != self._last_notice:
            self._last_notice = notice
            self._listener.note(notice)
