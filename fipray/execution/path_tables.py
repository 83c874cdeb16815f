"""Tables of a path that has ended."""

from __future__ import annotations

import socket
from typing import Any

from fipray.execution.jobs import Job, Tables, WeightsFile
from fipray.execution.path_rows import distance_rows, end_columns, measure_rows, point_row, task_rows, variant_row
from fipray.execution.resources import Location
from fipray.execution.tracing import PathAttempt
from fipray.paths import Problem, SaveAt, WeightPath, milestones, restrict, tasks_of
from fipray.study.canonical import kind_of, to_json
from fipray.study.evaluation import variant_of

IN_BOTH = (  # columns of `paths` that repeat the path's last row of `points`
    "sparsity",
    "functional_distance",
    "functional_distance_held_out",
    "objective_value",
    "clean_accuracy",
    "weights_file",
    "weights_sha256",
)


def attempt_columns(job: Job, location: Location) -> dict[str, Any]:
    """Columns that say which attempt a row comes from, and where it ran.

    Args:
        job: the attempt.
        location: device, node and process of the worker.

    Returns:
        Values by column.
    """
    return {
        "attempt": job.attempt,
        "host": socket.gethostname(),
        "node_id": location.node_id,
        "worker_id": location.worker_id,
        "device": location.device,
    }


def path_tables(attempt: PathAttempt, path: WeightPath) -> Tables:
    """Rows of all tables about a path but `tasks`.

    Args:
        attempt: the attempt that traced it.
        path: the path, whose points are all saved.

    Returns:
        Rows of `paths` and `points`; where they apply, also of `point_measures`, `point_distances` and `variants`.
    """
    spec, start, job, resources = attempt.spec, attempt.start, attempt.job, attempt.resources
    shared, files = _shared(attempt), attempt.saved.files
    points = [{**shared, **point_row(point, path.points[0], WeightsFile(*files[point.step]))} for point in path.points]
    row = {
        **shared,
        # Copied from the row of the last point rather than computed again, so that the tables cannot disagree.
        **{column: points[-1][column] for column in IN_BOTH},
        "start": spec.start,
        "parent_path_id": start.parent_path_id,
        "anchor_bytes": start.anchor_bytes,
        "memory_bytes": sum(metric.num_bytes for metric in start.memory),
        "seed": spec.seed,
        "objective": kind_of(spec.objective),
        "stepper": kind_of(spec.stepper),
        "spec_json": to_json(job.spec),
        **end_columns(path, spec.objective, len(resources.data.tests or ())),
        "num_steps": path.end.step,
        "walk_seconds": path.end.seconds,
        **attempt_columns(job, resources.location),
    }
    tables = {"points": points, "paths": [row]}
    if measured := measure_rows(path.points):
        tables["point_measures"] = [{**shared, **each} for each in measured]
    if resources.payload.keeps:
        tables["point_distances"] = [{**shared, **each} for each in distance_rows(path.points)]
    if variants := _variants(attempt, path):
        tables["variants"] = [{**shared, **variant} for variant in variants]
    return tables


def task_tables(attempt: PathAttempt, path: WeightPath) -> Tables:
    """Rows of `tasks`: accuracy on each task with test inputs, before and after the path.

    Args:
        attempt: the attempt that traced the path.
        path: the path.

    Returns:
        The table; empty for a study without such tasks.
    """
    resources = attempt.resources
    learned = tasks_of(attempt.spec.objective)
    if resources.data.task_tests:
        resources.heartbeat.enter("testing the tasks before and after the path")
    rows = task_rows(resources.network, resources.data.task_tests, learned, path)
    return {"tasks": [{**_shared(attempt), **row} for row in rows]} if rows else {}


def _shared(attempt: PathAttempt) -> dict[str, Any]:
    job, study = attempt.job, attempt.resources.payload.study
    return {"study": study, "path_id": job.id, "name": attempt.spec.name, "attempt": job.attempt}


def _variants(attempt: PathAttempt, path: WeightPath) -> list[dict[str, Any]]:
    """Rows of the sparse networks that the objective asked for, those of them that the path reached."""
    spec, start, resources = attempt.spec, attempt.start, attempt.resources
    asked = milestones(spec.objective)
    steps = SaveAt(also=tuple(fraction for fraction, _ in asked)).steps(spec.num_steps)
    # Restrictions look at a batch only to choose weights, so a small one is enough to see whether they already hold.
    problem = Problem(start.network, geometry=resources.payload.geometry)
    batch, example = start.anchors.first(64), resources.data.anchors(())[:1]
    rows = []
    for (fraction, sparsity), step in zip(asked, steps, strict=True):
        found = [path.end] if fraction == 1 else [point for point in path.points if point.step == step]
        # `restrict` returns its argument itself where the weights already meet the restriction.
        if found and restrict(spec.objective, problem, found[0].weights, fraction, batch) is found[0].weights:
            name = spec.name if fraction == 1 else variant_of(spec.name, sparsity)
            file = WeightsFile(*attempt.saved.files[found[0].step])
            rows.append({"target_sparsity": sparsity, **variant_row(resources.network, name, found[0], file, example)})
    return rows
