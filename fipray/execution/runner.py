"""Runners: the protocol, and the runner of this process."""

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
    """Carries out what a results directory still lacks of a study."""

    def run(
        self, study: Study, directory: str | Path, listener: Listener | None = None, changed: Changed = "stop"
    ) -> Store:
        """Returns when all is there. Raises RunError when some of it failed; the rest is there then.

        changed: where the directory was made by other code of the user's own, "stop", or "redo" what depends on it.
        """
        ...


@checked
@dataclass(frozen=True)
class LocalRunner:
    """Carries out a study in this process, one piece of work after the other: for debugging, and without Ray.

    What the study's own code raises, KeyboardInterrupt and SystemExit too, fails one path; Ctrl-C ends the run. Nothing
    here can end a step that never returns: where that may happen, use `RayRunner(num_workers=1, stall_seconds=...)`.
    """

    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"a run takes at least one thread; threads={self.threads} was given")
        check_device(self.device)

    @checked
    def run(
        self, study: Study, directory: str | Path, listener: Listener | None = None, changed: Changed = "stop"
    ) -> Store:
        """Returns when all is there. Raises RunError when some of it failed; the rest is there then.

        changed: where the directory was made by other code of the user's own, "stop", or "redo" what depends on it.
        """
        threads = torch.get_num_threads()
        queue = Queue(study, directory, listener or Silent(), changed)
        try:
            worker = Worker(queue.material, directory, threads=self.threads, device=self.device)
            with interruptions() as is_interrupted:
                while job := queue.next("this process"):
                    try:
                        tables = worker.carry_out(job)
                    except BaseException as error:  # whatever a study's own code raises: the other paths go on
                        if is_interrupted():
                            raise KeyboardInterrupt from error
                        queue.fail(job, sentence_of(error))
                    else:
                        queue.commit(job, tables)
                        if is_interrupted():  # and the study's own code went on regardless
                            raise KeyboardInterrupt
        finally:
            torch.set_num_threads(threads)
        return queue.close()
