"""Ray actor of a worker: code that runs in the worker's process."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import ray
import torch
from ray import cloudpickle

from fipray.cluster.heartbeats import HeartbeatChannel, HeartbeatSender
from fipray.errors import UsageError
from fipray.execution.failures import interruptions, sentence_of
from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job, Payload, Tables
from fipray.execution.worker import Worker


@dataclass(frozen=True)
class WorkerLocation:
    """Location of a worker's process.

    Args:
        node_id: Ray's ID of the node.
        host: host name.
        process_id: process ID on that host.
        log_file: file with the process's standard error on that host; empty if unknown.
    """

    node_id: str
    host: str
    process_id: int
    log_file: str

    def __str__(self) -> str:
        log = f", log file {self.log_file}" if self.log_file else ""
        return f"process {self.process_id} on {self.host}, node {self.node_id}{log}"


@dataclass(frozen=True)
class Failure:
    """Failed set-up or job. Exceptions stay in the worker, since not every exception can be pickled or printed.

    Args:
        reason: one line for the user, with the line of the study's code that raised.
    """

    reason: str


def assigned_device(device: str) -> str:
    """Device of this process.

    Args:
        device: torch device, or "auto".

    Returns:
        The same; for "auto" "cuda" with a GPU from Ray, else "cpu", as a worker must not use one that was assigned to
        others.

    Raises:
        UsageError: for a GPU from Ray that torch cannot use.
    """
    if device != "auto":
        return device
    reserved = ray.get_gpu_ids()
    if reserved and not torch.cuda.is_available():
        numbers = ", ".join(map(str, reserved))
        raise UsageError(
            f"Ray has reserved a GPU ({numbers}) of this node for the worker, and torch {torch.__version__} finds none "
            "there: install torch for its driver, or use CPUs with gpus_per_worker=0 (--gpus-per-worker 0)"
        )
    return "cuda" if reserved else "cpu"


def memory_fraction(device: str, assigned: Mapping[str, float]) -> float | None:
    """Fraction of a GPU's memory that a worker may allocate.

    Args:
        device: torch device of the worker.
        assigned: amounts that Ray assigned to it, by resource.

    Returns:
        The fraction of a GPU that it shares with others; None with a whole GPU or none.
    """
    gpus = assigned.get("GPU", 0.0)
    return gpus if device.startswith("cuda") and 0 < gpus < 1 else None


def prepared_device(device: str) -> str:
    """Device of this process, with its part of the GPU's memory as the most that torch allocates there.

    Args:
        device: torch device, or "auto".

    Returns:
        See `assigned_device`.

    Raises:
        UsageError: for a GPU from Ray that torch cannot use.
    """
    device = assigned_device(device)
    fraction = memory_fraction(device, ray.get_runtime_context().get_assigned_resources())
    if fraction is not None:
        # Of the one GPU that this process sees; else its allocator would keep what others on that GPU need.
        torch.cuda.set_per_process_memory_fraction(fraction)
    return device


class Actor:
    """Worker with the CPUs and GPUs that Ray assigned to it.

    Args:
        material: base network and data of the study.
        directory: results directory.
        threads: number of CPU threads of torch.
        device: torch device; "auto" for the GPU that Ray assigned if there is one, and the CPU elsewhere.
        channel: channel for heartbeats; None sends none.
        key: key of the heartbeats.
    """

    def __init__(
        self, material: Payload, directory: str, threads: int, device: str, channel: HeartbeatChannel | None, key: str
    ) -> None:
        self._material, self._directory, self._threads, self._device = material, directory, threads, device
        self._heartbeat = Heartbeat()
        if channel:
            HeartbeatSender(channel, key, self._heartbeat)

    def set_up(self) -> WorkerLocation | Failure:
        """Load the network and the data. Not part of `__init__`, whose errors would only show as a dead actor."""
        context = ray.get_runtime_context()
        with interruptions() as is_interrupted:
            try:
                self._worker = Worker(
                    self._material,
                    self._directory,
                    threads=self._threads,
                    device=prepared_device(self._device),
                    node_id=context.get_node_id(),
                    worker_id=context.get_actor_id(),
                    heartbeat=self._heartbeat,
                )
            except BaseException as error:
                if is_interrupted():
                    raise
                return Failure(sentence_of(error))
        process = ray._private.worker.global_worker
        log_file = getattr(process, "get_err_file_path", str)()  # Ray 2.60 has no public name for it
        return WorkerLocation(context.get_node_id(), socket.gethostname(), os.getpid(), log_file)

    def carry_out(self, packed: bytes) -> Tables | Failure:
        """Run one job.

        Args:
            packed: the pickled `Job`.

        Returns:
            Rows by table, or the failure. Only a signal raises, and the driver then counts the worker as lost.
        """
        with interruptions() as is_interrupted:
            try:
                job: Job = cloudpickle.loads(packed)
                return self._worker.run(job)
            except BaseException as error:  # a study's own code may also raise KeyboardInterrupt or SystemExit
                if is_interrupted():
                    raise
                return Failure(sentence_of(error))
