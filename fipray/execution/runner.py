"""Runners of studies: the protocol, and the runner in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from fipray.border import checked
from fipray.errors import UsageError
from fipray.execution.changed import Changed
from fipray.execution.failures import interruptions, sentence_of
from fipray.execution.listeners import Listener, Silent
from fipray.execution.queue import Queue
from fipray.execution.worker import Worker
from fipray.networks import check_device
from fipray.records import Store
from fipray.study.study import Study


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
        device: torch device, such as "cpu" or "cuda".

    Raises:
        UsageError: for less than one thread, or a device that is not available.
    """

    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"a run needs at least one thread; threads={self.threads} was given")
        check_device(self.device)

    @checked
    def run(
        self, study: Study, directory: str | Path, listener: Listener | None = None, changed: Changed = "stop"
    ) -> Store:
        # torch's number of threads belongs to the whole process, which is the user's.
        threads = torch.get_num_threads()
        queue = Queue(study, directory, listener or Silent(), changed)
        try:
            worker = Worker(queue.payload, directory, threads=self.threads, device=self.device)
            with interruptions() as is_interrupted:
                while job := queue.next("this process"):
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
        finally:
            torch.set_num_threads(threads)
        return queue.close()
