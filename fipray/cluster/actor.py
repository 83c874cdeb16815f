"""What runs in the process of a worker."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import ray
import torch
from ray import cloudpickle

from fipray.cluster.heart import Heart, Pulse
from fipray.cluster.place import Place
from fipray.execution.failures import interruptions, sentence_of
from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job, Payload, Tables
from fipray.execution.worker import Worker


@dataclass(frozen=True)
class Failure:
    """Why work failed, as a sentence. Exceptions stay here: not every one can be pickled, or shown."""

    reason: str


class Actor:
    """A Worker on whatever Ray gave to it. It speaks under `key` while it works, where a `pulse` is given."""

    def __init__(self, material: Payload, directory: str, threads: int, pulse: Pulse | None, key: str) -> None:
        self._material, self._directory, self._threads = material, directory, threads
        self._heartbeat = Heartbeat()
        if pulse:
            Heart(pulse, key, self._heartbeat)

    def place(self) -> Place | Failure:
        """Sets the worker up; answers once it is."""
        here = ray.get_runtime_context()
        with interruptions() as is_interrupted:
            try:
                self._worker = Worker(
                    self._material,
                    self._directory,
                    threads=self._threads,
                    device="cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu",
                    node_id=here.get_node_id(),
                    worker_id=here.get_actor_id(),
                    heartbeat=self._heartbeat,
                )
            except BaseException as error:
                if is_interrupted():
                    raise
                return Failure(sentence_of(error))
        process = ray._private.worker.global_worker
        log_file = getattr(process, "get_err_file_path", str)()  # no public name in Ray 2.60
        return Place(here.get_node_id(), socket.gethostname(), os.getpid(), log_file)

    def carry_out(self, packed: bytes) -> Tables | Failure:
        """What the work made, or why it failed. Raises only what a signal raised: then the worker is lost."""
        with interruptions() as is_interrupted:
            try:
                job: Job = cloudpickle.loads(packed)
                return self._worker.run(job)
            except BaseException as error:  # KeyboardInterrupt and SystemExit of a study's own code, too
                if is_interrupted():
                    raise
                return Failure(sentence_of(error))
