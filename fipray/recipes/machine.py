"""Threads and device on which a recipe's trial runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fipray.execution import LocalRunner, Runner
from fipray.networks.inputs import resolved_device


@dataclass(frozen=True)
class Machine:
    """Where a trial runs: as one worker of the study does, since the number of steps follows from its speed.

    Args:
        threads: CPU threads of torch.
        device: torch device.
        workers: number of paths that are traced at the same time.
    """

    threads: int = 1
    device: str = "cpu"
    workers: int = 1

    @classmethod
    def of(cls, runner: Runner) -> Machine:
        """Threads and device of a runner's workers.

        Args:
            runner: runner of the study.

        Returns:
            The same for the trial in this process; of a runner on Ray, the first GPU where its workers have one.
        """
        if isinstance(runner, LocalRunner):
            return cls(runner.threads, resolved_device(runner.device))
        has_gpu = torch.cuda.is_available() and getattr(runner, "gpus_per_worker", None) != 0
        threads = int(getattr(runner, "threads_per_worker", 1))
        if has_gpu:
            return cls(threads, "cuda", getattr(runner, "num_workers", None) or torch.cuda.device_count())
        # A cluster may have more nodes than this machine; then the run takes less time than it may.
        return cls(threads, "cpu", getattr(runner, "num_workers", None) or max((os.cpu_count() or 1) // threads, 1))

    @contextmanager
    def used(self) -> Iterator[None]:
        """Use this number of threads within the context."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
