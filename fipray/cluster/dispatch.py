"""Gives the work of an agenda to Ray actors, and takes back what they made."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions
import torch

from fipray.cluster.capacity import Capacity
from fipray.errors import FiprayError, RunError
from fipray.study.runner import Agenda, Watch
from fipray.study.work import Material, Tables, Work, steps_walked
from fipray.study.worker import PathWorker

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


def work_off(agenda: Agenda, slots: int, threads: int, gpus: float, max_attempts: int, watch: Watch) -> None:
    """Works off the agenda with `slots` actors of `threads` CPUs and `gpus` GPUs each.

    Raises RunError where an actor cannot be set up.
    """
    material = ray.put(agenda.material)
    actor_class = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(_Actor)

    def new_actor() -> Any:
        return actor_class.remote(material, agenda.store.address, threads)

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
        if done:
            last_sign = time.monotonic()
        else:
            for one in running.values():
                watch.walked(one.work, steps_walked(agenda.store, one.work))
        if time.monotonic() - last_sign > PATIENCE_SECONDS:
            last_sign = time.monotonic()
            if lacking := Capacity.pending(slots, threads, gpus):
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
                if one.tries < max_attempts:
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
