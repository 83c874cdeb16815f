"""Runners of studies: the protocol, and the runner in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from fipray.border import checked
from fipray.errors import UsageError
from fipray.execution.changed import Changed
from fipray.execution.failures import interruptions, sentence_of
from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job, Payload
from fipray.execution.listeners import Listener, Silent
from fipray.execution.queue import Queue
from fipray.execution.worker import Worker
from fipray.networks import resolved_device
from fipray.records import Store
from fipray.study.study import Study

REPORT_SECONDS = 0.5


@runtime_checkable
class Runner(Protocol):
    """Something that runs the jobs of a study."""

    def run(
        self, study: Study, directory: str | Path, listener: Listener | None = None, changed: Changed = "stop"
    ) -> Store:
        """Run the jobs that a results directory still lacks.

        Args:
            study: what to run.
            directory: path or address of the results directory; made where there is none.
            listener: told how the run progresses; None for silence.
            changed: what to do where the directory was made by other versions of the user's own code: "stop", or "redo"
                the results that depend on it.

        Returns:
            The results directory, with the results of all jobs.

        Raises:
            RunError: where jobs failed, after all others are done.
            UsageError: for a directory of another study, or made by other code where `changed` is "stop".
        """
        ...


@checked
@dataclass(frozen=True)
class LocalRunner:
    """Runner that runs one job after the other in this process: without Ray, and for debugging.

    Whatever the study's own code raises, KeyboardInterrupt and SystemExit included, fails one job; Ctrl-C ends the run.
    A step that never returns cannot be ended from within its process: where that may happen, use
    `RayRunner(num_workers=1, stall_seconds=...)`.

    Args:
        threads: CPU threads of torch, at least 1; reset after the run.
        device: torch device, such as "cpu" or "cuda"; "auto" for a GPU where there is one and the CPU elsewhere.

    Raises:
        UsageError: for less than one thread, or a device that is not available.
    """

    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"a run needs at least one thread; threads={self.threads} was given")
        resolved_device(self.device)

    @checked
    def run(
        self, study: Study, directory: str | Path, listener: Listener | None = None, changed: Changed = "stop"
    ) -> Store:
        listener = listener or Silent()
        queue = Queue(study, directory, listener, changed)
        with settings_kept():
            reports = JobReports(listener)
            listener.doing("setting up the worker")
            worker = self.worker(queue.payload, directory, reports.heartbeat)
            with interruptions() as is_interrupted:
                while job := queue.next("this process"):
                    reports.job = job
                    try:
                        tables = worker.run(job)
                    except BaseException as error:  # whatever a study's own code raises fails one job
                        if is_interrupted():
                            raise KeyboardInterrupt from error
                        queue.fail(job, sentence_of(error))
                    else:
                        queue.commit(job, tables)
                        if is_interrupted():  # the study's own code has swallowed the KeyboardInterrupt
                            raise KeyboardInterrupt
        return queue.close()

    def worker(self, payload: Payload, directory: str | Path, heartbeat: Heartbeat) -> Worker:
        """Create the worker of this process.

        Args:
            payload: network, data and settings of the study.
            directory: results directory.
            heartbeat: signs of progress.

        Returns:
            The worker, on the runner's device.
        """
        return Worker(payload, directory, threads=self.threads, device=self.device, heartbeat=heartbeat)


@dataclass
class JobReports:
    """Reports of the present job to a listener: each new stage at once, all else at most twice a second.

    Args:
        listener: receives them.
        job: the attempt; None before the first.
    """

    listener: Listener
    job: Job | None = None
    heartbeat: Heartbeat = field(init=False)
    _due: float = 0.0
    _stage: tuple[Job | None, str] = (None, "")  # the last one that was reported

    def __post_init__(self) -> None:
        self.heartbeat = Heartbeat(on_change=self._report)

    def _report(self) -> None:
        # A small network finishes thousands of steps a second, and a listener may be slow.
        stage = self.job, self.heartbeat.stage
        if self.job is None or (time.monotonic() < self._due and stage == self._stage):
            return
        self._due, self._stage = time.monotonic() + REPORT_SECONDS, stage
        if self.heartbeat.step is not None:
            self.listener.progressed(self.job, self.heartbeat.step)
        self.listener.stage(self.job, self.heartbeat.where)


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore what a worker sets for the whole process, which is the user's: threads, and flushing of denormals."""
    threads = torch.get_num_threads()
    # torch has no name for the present setting: a product with the smallest denormal is 0 where they are flushed.
    flushes = not torch.tensor(2.0**-149).mul(2.0**10).item()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushes)
