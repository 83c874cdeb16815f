"""Threads and device on which a recipe's trial runs, and the number of threads that suits its network."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from fipray.execution import LocalRunner, Runner
from fipray.networks import Network
from fipray.networks.inputs import resolved_device

WORTH = 1.15  # how much faster twice the threads must be
NUM_TIMED, ENOUGH_SECONDS = 5, 2.0  # gradients that are timed for each number of threads, and time that is enough


def num_cores() -> int:
    """Count the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        return cls(threads, "cpu", getattr(runner, "num_workers", None) or max(num_cores() // threads, 1))

    @contextmanager
    def used(self) -> Iterator[None]:
        """Use this number of threads within the context."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def workers_on_cores(runner: Runner) -> int | None:
    """Count the workers that share the CPU cores of this machine.

    Args:
        runner: runner of the study.

    Returns:
        1 for this process; of a private session of Ray the number that was asked for, or 0 for as many as fit. None
        where workers have GPUs, or are on other machines.
    """
    if isinstance(runner, LocalRunner):
        return 1 if resolved_device(runner.device) == "cpu" else None
    gpus = getattr(runner, "gpus_per_worker", None)
    has_gpus = torch.cuda.is_available() if gpus is None else gpus > 0
    if has_gpus or getattr(runner, "device", "cpu") == "mps" or not getattr(runner, "is_on_this_machine", False):
        return None
    return getattr(runner, "num_workers", None) or 0


def with_threads(runner: Runner, threads: int) -> Runner:
    """Change the number of CPU threads of the workers.

    Args:
        runner: runner in this process, or on Ray.
        threads: number of threads.

    Returns:
        The same runner otherwise.
    """
    name = "threads" if isinstance(runner, LocalRunner) else "threads_per_worker"
    return replace(cast(Any, runner), **{name: threads})


def best_threads(seconds: Callable[[int], float], most: int) -> int:
    """Double the number of threads while that makes steps faster by 15 % or more.

    Args:
        seconds: measures the seconds of a step with a number of threads.
        most: largest number of threads.

    Returns:
        Number of threads.
    """
    best, pace = 1, seconds(1)
    while best < most:
        more = min(2 * best, most)
        faster = seconds(more)
        if pace < WORTH * faster:
            break
        best, pace = more, faster
    return best


def gradient_seconds(network: Network, inputs: Tensor) -> Callable[[int], float]:
    """Measure how long one gradient takes, with any number of threads.

    Args:
        network: network on the CPU.
        inputs: a batch [N, ...].

    Returns:
        Function of the number of threads that returns the median of up to five, after one that warms up.
    """

    def once() -> float:
        began = time.perf_counter()
        network.fitting(gradient, len(inputs))
        return time.perf_counter() - began

    def gradient() -> None:
        weights = network.weights.clone().requires_grad_()
        torch.autograd.grad(network(weights, inputs).square().sum(), weights)

    def measured(threads: int) -> float:
        with Machine(threads).used():
            once()
            times = [once()]
            while len(times) < NUM_TIMED and sum(times) < ENOUGH_SECONDS:
                times.append(once())
        return median(times)

    return measured
