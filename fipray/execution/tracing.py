"""One attempt at a path: tracing it, and saving its points as they are reached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fipray.execution import checkpoints
from fipray.execution.checkpoints import Checkpoint
from fipray.execution.jobs import Job
from fipray.execution.resources import Resources
from fipray.execution.starts import Start
from fipray.paths import (
    NOT_FINITE as NOT_FINITE,  # for the cluster, which imports no floor below the study
    PathPoint,
    Problem,
    WeightPath,
    milestones,
    packed,
    trace,
)
from fipray.records.layout import attempt_directory, step_name
from fipray.study.specs import PathSpec

GIVEN_UP = "given up"  # kind of the outcome of a path that a search ended early
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PathAttempt:
    """One attempt at a path, or at a round of one.

    Args:
        resources: network, data and results directory.
        job: the attempt.
        spec: the path.
        start: network at which the path starts.
        saved: points saved so far, by this attempt and by those that it continues. Modified in place.
    """

    resources: Resources
    job: Job
    spec: PathSpec
    start: Start
    saved: Checkpoint

    def trace(
        self, others: Sequence[Tensor], until: int | None = None, on_saved: Callable[[], None] | None = None
    ) -> WeightPath:
        """Continue the path from its last saved point, and save further points.

        Args:
            others: weights [P] of the other networks that the objective sees.
            until: step after which the path is paused; None to trace it to its end.
            on_saved: called after each point is saved.

        Returns:
            All points of the path so far, and its outcome.
        """
        spec, start, saved, resources = self.spec, self.start, self.saved, self.resources
        save_at = spec.save_at.and_also(fraction for fraction, _ in milestones(spec.objective))
        # `trace` drops a point that was saved for a pause only, too, so the saved points have to follow.
        resumed, saved.points = saved.points, save_at.without_pause(saved.points, spec.num_steps)

        def save(point: PathPoint) -> None:
            _logger.info(
                "step %d: objective %.4g, functional distance %.4g, sparsity %.3f",
                *(point.step, point.objective_value, point.functional_distance, point.sparsity),
            )
            self._write(point)  # before the checkpoint, which names the file with its digest
            # At a goal, the whole restriction is imposed on the last point, which is then measured and saved again.
            if saved.points and saved.points[-1].step == point.step:
                saved.points.pop()
            saved.points.append(point)
            if point.solver_state:
                checkpoints.save(resources.store, self.job.id, self.job.attempt, saved)
            if on_saved:
                on_saved()
            resources.heartbeat.beat()

        held_out = resources.data.held_out(spec.held_out)
        with resources.heartbeat.counted(start.network, "outputs of the start on the held-out inputs", len(held_out)):
            problem = Problem(
                start.network,
                start.anchors,
                held_out,
                **resources.starts.kept,
                others=others,
                tasks=resources.data.tasks,
                memory=start.memory,
            )
        return trace(
            problem,
            spec.objective,
            spec.settings,
            probes=resources.probes,
            on_point=save,
            resume=resumed,
            until=until,
            on_step=resources.heartbeat.step_over,
            on_stage=resources.heartbeat.enter,
        )

    def adopt(self, points: Sequence[PathPoint]) -> None:
        """Write weights of earlier rounds again, as files of this attempt.

        Earlier rounds have IDs of their own, and the rows of an ID may name only weights files of that ID.

        Args:
            points: saved points whose weights the rows of this attempt will name.
        """
        own = f"{attempt_directory(self.job.id, self.job.attempt)}/"
        for point in points:
            if not self.saved.files[point.step][0].startswith(own):
                self._write(point)

    def _write(self, point: PathPoint) -> None:
        named = {"weights": point.weights, **packed(self.start.memory)}
        # numpy has no bfloat16, but the vector of such a network is float32 (see `Network`).
        arrays = {name: array.cpu().numpy() for name, array in named.items()}
        file = step_name(point.step)
        self.saved.files[point.step] = self.resources.store.write_weights(self.job.id, self.job.attempt, file, arrays)
