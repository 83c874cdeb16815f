"""Carries out a study on Ray actors: on this machine, or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from fipray.cluster.capacity import Capacity
from fipray.errors import UsageError

if TYPE_CHECKING:  # what loads torch is loaded when a run begins: a cluster that is too small says so before
    from fipray.records import Store
    from fipray.study import Study, Watch


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
        capacity = self.preflight()
        from fipray.cluster.dispatch import work_off
        from fipray.cluster.metrics import RayMetrics
        from fipray.study.runner import Agenda
        from fipray.study.watch import Quiet, Watches

        watch = Watches([watch or Quiet(), RayMetrics()])
        agenda = Agenda(study, directory, watch)
        slots = min(capacity.num_workers, agenda.num_waiting)
        if slots:
            if self._is_private and not ray.is_initialized():
                watch.note("starting Ray on this machine")
            with self.session():
                gpus = f" with {capacity.gpus_per_worker:g} GPU each" if capacity.gpus_per_worker else ""
                nodes = f"{capacity.num_nodes} {'node' if capacity.num_nodes == 1 else 'nodes'}"
                watch.note(f"{slots} {'worker' if slots == 1 else 'workers'}{gpus} on {nodes}")
                work_off(agenda, slots, self.threads_per_worker, capacity.gpus_per_worker, self.max_attempts, watch)
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
