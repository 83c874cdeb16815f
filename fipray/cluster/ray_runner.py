"""Carries out a study on Ray actors: on this machine, or on a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import torch

from fipray.cluster.capacity import Capacity
from fipray.errors import FiprayError, RunError, UsageError
from fipray.records import Store
from fipray.study.runner import Agenda, Quiet, Watch
from fipray.study.spec import Study
from fipray.study.worker import Material, PathWorker, Tables, Work, steps_walked

# One event shows as any of these, by chance; after any of them the work may or may not have been done.
LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
)
PROGRESS_SECONDS = 1.0
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class RayRunner:
    """One actor a slot; each holds the base network and the data, and carries out one spec at a time.

    address: of a Ray cluster; "auto" for the one on this machine. None: the cluster that RAY_ADDRESS names, as in a
        Ray job, or else a private one on this machine for as long as the run takes.
    num_workers: actors; by default as many as fit.
    gpus_per_worker: GPUs or a fraction of one; by default one where there are GPUs, none elsewhere.
    threads_per_worker: CPU cores of each actor.
    max_attempts: how often one spec is tried when its actor or node is lost.

    Raises UsageError, before anything is written, when the cluster lacks what is asked.
    """

    address: str | None = None
    num_workers: int | None = None
    gpus_per_worker: float | None = None
    threads_per_worker: int = 1
    max_attempts: int = 3

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise UsageError(f"at least one worker is needed; num_workers={self.num_workers} was given")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise UsageError(f"GPUs per worker are at least 0; {self.gpus_per_worker} was given")
        if self.threads_per_worker < 1 or self.max_attempts < 1:
            raise UsageError(
                "threads_per_worker and max_attempts are at least 1; "
                f"{self.threads_per_worker} and {self.max_attempts} were given"
            )

    def run(self, study: Study, directory: str | Path, watch: Watch | None = None) -> Store:
        watch = watch or Quiet()
        capacity = self.preflight()
        agenda = Agenda(study, directory, watch)
        slots = min(capacity.num_workers, agenda.num_waiting)
        if slots:
            with self.session():
                gpus = f" with {capacity.gpus_per_worker:g} GPU each" if capacity.gpus_per_worker else ""
                nodes = f"{capacity.num_nodes} {'node' if capacity.num_nodes == 1 else 'nodes'}"
                watch.note(f"{slots} {'worker' if slots == 1 else 'workers'}{gpus} on {nodes}")
                self._work_off(agenda, slots, capacity.gpus_per_worker, Path(directory).absolute(), watch)
        return agenda.close()

    def preflight(self) -> Capacity:
        """What the cluster can give to this runner, asked in seconds and without starting anything.

        Raises UsageError, with what there is, when it is too little.
        """
        asked = self.num_workers, self.gpus_per_worker, self.threads_per_worker
        if self._is_private and not ray.is_initialized():
            return Capacity.of_machine(*asked)
        with self.session():
            return Capacity.of_cluster(*asked)

    @property
    def _address(self) -> str:
        return self.address or os.environ.get("RAY_ADDRESS") or "local"

    @property
    def _is_private(self) -> bool:
        return self._address == "local"

    @contextmanager
    def session(self) -> Iterator[None]:
        """A connection to the cluster; the one that is there already, where there is one."""
        if ray.is_initialized():
            yield
            return
        if self._is_private:
            with _private_session():
                yield
            return
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"no Ray cluster answers at {self._address!r}: {error}. Is the address right, and the token?"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def _work_off(self, agenda: Agenda, slots: int, gpus: float, directory: Path, watch: Watch) -> None:
        material = ray.put(agenda.material)
        actor_class = ray.remote(num_cpus=self.threads_per_worker, num_gpus=gpus, max_restarts=0)(_Actor)

        def new_actor() -> Any:
            return actor_class.remote(material, str(directory), self.threads_per_worker)

        # One work at a time for each actor, so that nothing queues where it could be lost or wait for a slow one.
        idle = {number: new_actor() for number in range(1, slots + 1)}
        running: dict[ray.ObjectRef, _Running] = {}

        def give(number: int, actor: Any, work: Work, tries: int) -> None:
            running[actor.carry_out.remote(work)] = _Running(number, actor, work, tries)

        last_sign = time.monotonic()
        while True:
            while idle and (work := agenda.next(f"worker {min(idle)}")):
                number = min(idle)
                give(number, idle.pop(number), work, 1)
            if not running:
                return
            done, _ = ray.wait(list(running), timeout=PROGRESS_SECONDS)
            for one in running.values():
                watch.walked(one.work, steps_walked(agenda.store, one.work))
            if done:
                last_sign = time.monotonic()
            elif time.monotonic() - last_sign > PATIENCE_SECONDS:
                last_sign = time.monotonic()
                if lacking := Capacity.pending(slots, self.threads_per_worker, gpus):
                    watch.note(lacking)
            for ref in done:
                one = running.pop(ref)
                try:
                    tables: Tables = ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    said = isinstance(error.cause, FiprayError)  # a sentence for people; all else needs its traceback
                    agenda.fail(one.work, str(error.cause if said else error))
                    idle[one.number] = one.actor
                except LOST as error:
                    if "creation task" in str(error):
                        raise RunError(f"a worker could not be set up:\n{error}") from error
                    with suppress(Exception):
                        ray.kill(one.actor)
                    actor = new_actor()
                    if one.tries < self.max_attempts:
                        watch.note(f"worker {one.number} was lost with {one.work.label}, which is begun again")
                        give(one.number, actor, agenda.again(one.work, f"worker {one.number}"), one.tries + 1)
                    else:
                        agenda.fail(one.work, f"its worker was lost {one.tries} times, the last time so: {error}")
                        idle[one.number] = actor
                else:
                    agenda.commit(one.work, tables)
                    idle[one.number] = one.actor


@dataclass(frozen=True)
class _Running:
    """A worker and what it does."""

    number: int
    actor: Any
    work: Work
    tries: int


class _Actor:
    """A PathWorker on whatever Ray gave to it."""

    def __init__(self, material: Material, directory: str, threads: int) -> None:
        device = "cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu"
        here = ray.get_runtime_context()
        self._worker = PathWorker(
            material,
            directory,
            threads=threads,
            device=device,
            node_id=here.get_node_id(),
            worker_id=here.get_actor_id(),
        )

    def carry_out(self, work: Work) -> Tables:
        return self._worker.carry_out(work)


@contextmanager
def _private_session() -> Iterator[None]:
    """A Ray session of our own on this machine. Ray puts a token on it; the environment is left as it was."""
    before = os.environ.get("RAY_AUTH_MODE")
    try:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
        with suppress(OSError):  # Ray makes the token readable to everybody on the machine
            (Path.home() / ".ray" / "auth_token").chmod(0o600)
        yield
    finally:
        ray.shutdown()
        if before is None:
            os.environ.pop("RAY_AUTH_MODE", None)
