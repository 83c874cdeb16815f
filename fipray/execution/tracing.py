"""How a path is walked, whole or a round of it, and kept as rows and files while it is."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fipray.execution import checkpoints
from fipray.execution.checkpoints import Kept
from fipray.execution.describing import (
    describe,
    describe_distances,
    describe_end,
    describe_measures,
    describe_tasks,
    describe_variant,
)
from fipray.execution.heartbeat import Heartbeat
from fipray.execution.jobs import Job, Tables, WeightsFile
from fipray.geometry import Kept as KeptQuantity, KroneckerMetric, OutputGeometry
from fipray.networks import Network
from fipray.paths import (
    NOT_FINITE as NOT_FINITE,
    Batch,
    Outcome,
    PathPoint,
    Probe,
    Problem,
    SaveAt,
    WeightPath,
    augmented,
    judged,
    milestones,
    packed,
    restrict,
    tasks_of,
    trace,
    unpacked,
)
from fipray.records import Store
from fipray.records.layout import attempt_directory, step_name
from fipray.study.canonical import kind_of, to_json
from fipray.study.evaluation import BASE, variant_of
from fipray.study.rounds import RoundSpec
from fipray.study.specs import PathSpec
from fipray.study.tensors import Tensors, kept_of

WeightsOf = Callable[[str], Tensor]
Report = Callable[[Tables], None]  # is told the rows of a path as they would be if it ended where it is
GIVEN_UP = "given up"
_PAUSED = "paused"
NUM_KEPT = 4  # starts, with the anchors of each, that a worker keeps at hand
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Ground:
    """What a path stands on: the network at its start, the anchors with the start's outputs on them and how much memory
    they take that has to be kept, what is remembered of inputs that are gone, and the path that the start belongs to,
    unless it is the base.
    """

    network: Network
    drawn: Batch
    anchor_bytes: int
    memory: tuple[KroneckerMetric, ...]
    parent_path_id: str | None


@dataclass(frozen=True, eq=False)
class Tracer:
    """Walks paths of a study on the device where its tensors are; goes on where an earlier attempt left them."""

    store: Store
    study: str
    network: Network
    geometry: OutputGeometry
    keeps: Mapping[str, KeptQuantity]
    data: Tensors
    probes: Mapping[str, Probe]
    device: str
    node_id: str | None
    worker_id: str | None
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    _latest: dict[tuple[object, ...], Ground] = field(default_factory=dict)

    @cached_property
    def _kept(self) -> dict[str, Any]:
        """What must stay on every path, as arguments of a problem."""
        return kept_of(self.geometry, self.keeps, self.data)

    def _ground(self, job: Job, spec: PathSpec) -> Ground:
        """The network where a path begins, and the anchors with its outputs on them. Paths that begin at the same
        network share it, when they are walked one after the other or not long after.
        """
        start = job.start(spec.start)
        key = (start.sha256 if start else BASE, spec.anchors, spec.augmentations, spec.memory, spec.moving)
        if key not in self._latest:
            network, memory = self.network, tuple[KroneckerMetric, ...]()
            if spec.moving:
                network = network.only(spec.moving)
            if start:
                arrays = self.store.read_weights(start.file, start.sha256)
                tensors = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
                network, memory = network.at(tensors["weights"]), unpacked(tensors)
            problem, inputs = Problem(network, **self._kept), self.data.anchors(spec.anchors)
            if spec.memory:
                memory += (spec.memory.of(problem, self.data.anchors(spec.memory.sets)),)
            drawn = problem.batch(augmented(inputs, spec.augmentations))
            while len(self._latest) >= NUM_KEPT:
                del self._latest[next(iter(self._latest))]
            self._latest[key] = Ground(network, drawn, inputs.nbytes, memory, start.path_id if start else None)
        return self._latest[key]

    def path(self, job: Job, spec: PathSpec, weights_of: WeightsOf, report: Report | None = None) -> Tables:
        """Rows of `paths` and `points`; `weights_of` the name of another network [P]. `report` is told every point, and
        those that earlier attempts kept.
        """
        ground = self._ground(job, spec)
        kept = checkpoints.load(self.store, job.id, job.attempt, list(self.probes), self.device) or Kept()

        def tell(number: int) -> None:
            points = tuple(kept.points[:number])
            sentence = f"given up by the search after {points[-1].step} of {spec.num_steps} steps"
            if report:
                outcome = judged(Outcome(GIVEN_UP, sentence), spec.objective, points)
                report(self._ended(job, spec, ground, WeightPath(points, outcome), kept))

        for number in range(1, len(kept.points) + 1):
            tell(number)
        others = [weights_of(name) for name in spec.others]
        path = self._trace(job, spec, ground, kept, others, on_kept=lambda: tell(len(kept.points)))
        return self._ended(job, spec, ground, path, kept) | self._tasks(job, spec, path)

    def round(self, job: Job, spec: RoundSpec, weights_of: WeightsOf) -> Tables:
        """Rows of `rounds`, or of the last one those of the path. The path goes on where it waits; where nobody knows
        that any more, all its rounds are walked again.
        """
        began, ground = time.perf_counter(), self._ground(job, spec.path)
        kept = checkpoints.load(self.store, job.id, job.attempt, list(self.probes), self.device)
        for earlier in reversed(spec.earlier):
            kept = kept or checkpoints.load_end(self.store, job.weights(earlier).file, list(self.probes), self.device)
        kept = kept or Kept()
        path = WeightPath(tuple(kept.points), kept.outcome or Outcome(_PAUSED, ""))
        for number in range(kept.round + (kept.outcome is not None), spec.number + 1):
            if path.outcome.kind == _PAUSED:
                kept.round, kept.outcome = number, None
                until = None if number == spec.num_rounds else spec.until(number)
                others = [weights_of(name) for name in spec.others(number)]
                path = self._trace(job, spec.path, ground, kept, others, until)
        if spec.is_last:
            self._take_over(job, kept, path.points, ground.memory)
            return self._ended(job, spec.path, ground, path, kept) | self._tasks(job, spec.path, path)
        self._take_over(job, kept, path.points[-1:], ground.memory)
        kept.points, kept.round, kept.outcome = list(path.points), spec.number, path.outcome
        checkpoints.save(self.store, job.id, job.attempt, kept)
        file, sha256 = kept.files[path.end.step]
        row = {
            "study": self.study,
            "round_id": job.id,
            "name": spec.name,
            "round": spec.number,
            "num_rounds": spec.num_rounds,
            "step": path.end.step,
            "outcome": path.outcome.sentence,
            "outcome_kind": path.outcome.kind,
            "weights_file": file,
            "weights_sha256": sha256,
            "seconds": time.perf_counter() - began,
            **self._where(job),
        }
        return {"rounds": [row]}

    def _trace(
        self,
        job: Job,
        spec: PathSpec,
        ground: Ground,
        kept: Kept,
        others: Sequence[Tensor],
        until: int | None = None,
        on_kept: Callable[[], None] | None = None,
    ) -> WeightPath:
        """Walk on from what is `kept`, and keep more there."""
        save_at = spec.save_at.and_also(fraction for fraction, _ in milestones(spec.objective))
        earlier, kept.points = kept.points, save_at.without_pause(kept.points, spec.num_steps)

        def keep(point: PathPoint) -> None:
            _logger.info(
                "step %d: objective %.4g, functional distance %.4g, sparsity %.3f",
                *(point.step, point.objective_value, point.functional_distance, point.sparsity),
            )
            self._write(job, kept, point, ground.memory)
            if kept.points and kept.points[-1].step == point.step:  # the end takes the place of what it was made of
                kept.points.pop()
            kept.points.append(point)
            if point.solver_state:
                checkpoints.save(self.store, job.id, job.attempt, kept)
            if on_kept:
                on_kept()
            self.heartbeat.beat()

        self.heartbeat.beat()  # the start's outputs on the anchors are there
        problem = Problem(
            ground.network,
            ground.drawn,
            self.data.held_out(spec.held_out),
            **self._kept,
            others=others,
            tasks=self.data.tasks,
            memory=ground.memory,
        )
        return trace(
            problem,
            spec.objective,
            spec.settings,
            probes=self.probes,
            on_point=keep,
            resume=earlier,
            until=until,
            on_step=self.heartbeat.step_over,
        )

    def _write(self, job: Job, kept: Kept, point: PathPoint, memory: Sequence[KroneckerMetric]) -> None:
        arrays = {name: one.cpu().numpy() for name, one in {"weights": point.weights, **packed(memory)}.items()}
        kept.files[point.step] = self.store.write_weights(job.id, job.attempt, step_name(point.step), arrays)

    def _take_over(self, job: Job, kept: Kept, points: Sequence[PathPoint], memory: Sequence[KroneckerMetric]) -> None:
        """Write weights that earlier rounds or attempts wrote as this one's own: its rows name no others."""
        for point in points:
            if not kept.files[point.step][0].startswith(f"{attempt_directory(job.id, job.attempt)}/"):
                self._write(job, kept, point, memory)

    def _where(self, job: Job) -> dict[str, Any]:
        """What the tables say of an attempt."""
        return {
            "attempt": job.attempt,
            "host": socket.gethostname(),
            "node_id": self.node_id,
            "worker_id": self.worker_id,
            "device": self.device,
        }

    def _ended(self, job: Job, spec: PathSpec, ground: Ground, path: WeightPath, kept: Kept) -> Tables:
        """The rows of a path that has come to its end."""
        start = path.points[0]
        shared = {"study": self.study, "path_id": job.id, "name": spec.name, "attempt": job.attempt}
        points = [{**shared, **describe(point, start, WeightsFile(*kept.files[point.step]))} for point in path.points]
        in_both = (
            "sparsity",
            "functional_distance",
            "functional_distance_held_out",
            "objective_value",
            "clean_accuracy",
            "weights_file",
            "weights_sha256",
        )
        row = {
            **shared,
            **{column: points[-1][column] for column in in_both},
            "start": spec.start,
            "parent_path_id": ground.parent_path_id,
            "anchor_bytes": ground.anchor_bytes,
            "memory_bytes": sum(metric.num_bytes for metric in ground.memory),
            "seed": spec.seed,
            "objective": kind_of(spec.objective),
            "stepper": kind_of(spec.stepper),
            "spec_json": to_json(job.spec),
            **describe_end(path, spec.objective, len(self.data.tests or ())),
            "num_steps": path.end.step,
            "walk_seconds": path.end.seconds,
            **self._where(job),
        }
        tables = {"points": points, "paths": [row]}
        if measured := describe_measures(path.points):
            tables["point_measures"] = [{**shared, **each} for each in measured]
        if self.keeps:
            tables["point_distances"] = [{**shared, **each} for each in describe_distances(path.points)]
        if variants := self._variants(spec, ground, path, kept):
            tables["variants"] = [{**shared, **variant} for variant in variants]
        return tables

    def _tasks(self, job: Job, spec: PathSpec, path: WeightPath) -> Tables:
        """What the tables say of the tasks: how well the path's end does each that can be judged."""
        shared = {"study": self.study, "path_id": job.id, "name": spec.name, "attempt": job.attempt}
        described = describe_tasks(self.network, self.data.task_tests, tasks_of(spec.objective), path)
        return {"tasks": [{**shared, **row} for row in described]} if described else {}

    def _variants(self, spec: PathSpec, ground: Ground, path: WeightPath, kept: Kept) -> list[dict[str, Any]]:
        """What the tables say of the sparse networks that the path was asked for, those of them that it reached."""
        asked = milestones(spec.objective)
        steps = SaveAt(also=tuple(fraction for fraction, _ in asked)).steps(spec.num_steps)
        problem, few = Problem(ground.network, geometry=self.geometry), ground.drawn.first(64)
        rows = []
        for (fraction, sparsity), step in zip(asked, steps, strict=True):
            found = [path.end] if fraction == 1 else [point for point in path.points if point.step == step]
            if found and restrict(spec.objective, problem, found[0].weights, fraction, few) is found[0].weights:
                name = spec.name if fraction == 1 else variant_of(spec.name, sparsity)
                file, one = WeightsFile(*kept.files[found[0].step]), self.data.anchors(())[:1]
                rows.append({"target_sparsity": sparsity, **describe_variant(self.network, name, found[0], file, one)})
        return rows
