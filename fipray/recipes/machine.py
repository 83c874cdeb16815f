"""Threads and device on which a recipe's trial runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fipray.execution import LocalRunner, Runner


@dataclass(frozen=True)
class Machine:
    """Where a trial runs: as one worker of the study does, since the number of steps follows from its speed.

    Args:
        threads: CPU threads of torch.
        device: torch device.
    """

    threads: int = 1
    device: str = "cpu"

    @classmethod
    def of(cls, runner: Runner) -> Machine:
        """Threads and device of a runner's workers.

        Args:
            runner: runner of the study.

        Returns:
            The same for the trial in this process; of a runner on Ray, the first GPU where its workers have one.
        """
        if isinstance(runner, LocalRunner):
            return cls(runner.threads, runner.device)
        has_gpu = torch.cuda.is_available() and getattr(runner, "gpus_per_worker", None) != 0
        return cls(int(getattr(runner, "threads_per_worker", 1)), "cuda" if has_gpu else "cpu")

    @contextmanager
    def used(self) -> Iterator[None]:
        """Use this number of threads within the context."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
