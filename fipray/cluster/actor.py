"""What runs in the process of a worker."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import ray
import torch
from ray import cloudpickle

from fipray.study.work import Material, Tables, Work
from fipray.study.worker import PathWorker


@dataclass(frozen=True)
class Place:
    """Where a worker is: its node, its host, its process, and the file of what it prints as errors."""

    node_id: str
    host: str
    process: int
    log_file: str

    def __str__(self) -> str:
        log = f", log file {self.log_file}" if self.log_file else ""
        return f"process {self.process} on {self.host}, node {self.node_id}{log}"


class Actor:
    """A PathWorker on whatever Ray gave to it."""

    def __init__(self, material: Material, directory: str, threads: int) -> None:
        device = "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"
        here = ray.get_runtime_context()
        self._node_id = here.get_node_id()
        self._worker = PathWorker(
            material,
            directory,
            threads=threads,
            device=device,
            node_id=self._node_id,
            worker_id=here.get_actor_id(),
        )

    def place(self) -> Place:
        """Answers once the worker is set up."""
        process = ray._private.worker.global_worker
        log_file = getattr(process, "get_err_file_path", str)()  # no public name in Ray 2.60
        return Place(self._node_id, socket.gethostname(), os.getpid(), log_file)

    def carry_out(self, packed: bytes) -> Tables:
        work: Work = cloudpickle.loads(packed)
        return self._worker.carry_out(work)
