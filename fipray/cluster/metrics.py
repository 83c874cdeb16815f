"""Metrics of a run for Ray's dashboard and Prometheus, exported at the metrics port of the driver's node."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ray.util.metrics import Counter, Gauge

from fipray.execution.jobs import Job, JobSpec, Tables, last_step_in
from fipray.execution.progress import Progress


class RayMetrics:
    """Listener that exports metrics, each tagged with the study. Ray adds the prefix `ray_` to their names.

    - `fipray_paths_done`, `fipray_paths_failed`: paths that this run has finished, and that failed in it.
    - `fipray_work_waiting`: jobs that are not finished yet, such as paths and attacks.
    - `fipray_steps_total`: steps of all paths in this run.
    - `fipray_functional_distance`: held-out functional distance of the path that finished last; in radians for
      Fisher-Rao outputs.
    """

    def __init__(self) -> None:
        self._progress = Progress()
        self._num_done = self._num_failed = 0
        self._done = _gauge("fipray_paths_done", "Paths that this run has finished.")
        self._failed = _gauge("fipray_paths_failed", "Paths that failed in this run.")
        self._waiting = _gauge("fipray_work_waiting", "Jobs that are not finished yet.")
        self._distance = _gauge(
            "fipray_functional_distance", "Held-out functional distance of the path that finished last."
        )
        # Exported as fipray_steps_total: Ray adds the suffix to the names of counters.
        self._steps = Counter("fipray_steps", "Steps of all paths in this run.", ("study",))

    def doing(self, sentence: str) -> None:
        pass

    def begin(self, study: str, waiting: Sequence[JobSpec], done: int) -> None:
        for metric in (self._done, self._failed, self._waiting, self._distance, self._steps):
            metric.set_default_tags({"study": study})
        self._progress.begin(waiting, done)
        self._set()

    def started(self, job: Job, where: str) -> None:
        self._progress.started(job, where, time.monotonic())

    def progressed(self, job: Job, step: int) -> None:
        if num_new := self._progress.progressed(job, step, time.monotonic()):
            self._steps.inc(num_new)

    def stage(self, job: Job, stage: str) -> None:
        pass

    def committed(self, job: Job, tables: Tables) -> None:
        self.progressed(job, last_step_in(tables))
        for row in tables.get("paths", ()):
            self._num_done += 1
            # Null if it was not measured; the gauge then keeps the value of the path before.
            if (distance := row["functional_distance_held_out"]) is not None:
                self._distance.set(distance)

    def finished(self, job: Job, sentence: str, seconds: float) -> None:
        self._progress.ended(job, time.monotonic())
        self._set()

    def failed(self, job: Job, reason: str) -> None:
        self._progress.ended(job, time.monotonic(), failed=True)
        self._num_failed += job.last_step is not None
        self._set()

    def note(self, sentence: str) -> None:
        pass

    def _set(self) -> None:
        self._done.set(self._num_done)
        self._failed.set(self._num_failed)
        self._waiting.set(self._progress.total - self._progress.done)


def _gauge(name: str, description: str) -> Gauge:
    return Gauge(name, description, ("study",))
