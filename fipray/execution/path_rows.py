"""Rows of the tables that describe a path: its points, its end, its sparse variants and the tasks that it learned."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from fipray.execution.jobs import WeightsFile
from fipray.networks import Network, footprint_of
from fipray.paths import Examples, Objective, PathPoint, WeightPath, improvement
from fipray.study.measures import ACCURACY
from fipray.study.tensors import accuracy

Row = dict[str, Any]
LARGEST_FALL = 0.1  # of accuracy, in 0..1
STANDARD_ERRORS = 4.0  # of the difference of two accuracies: a fall beyond them is chance once in 30,000 comparisons


def point_row(point: PathPoint, start: PathPoint, weights: WeightsFile) -> Row:
    """Row of `points`, without the columns that all rows of a path share.

    Args:
        point: a saved point.
        start: first point of the path.
        weights: file with the point's weights.

    Returns:
        Values by column.
    """
    return {
        "step": point.step,
        "sparsity": point.sparsity,
        "functional_distance": point.functional_distance,
        "functional_distance_held_out": point.functional_distance_held_out,
        "objective_value": point.objective_value,
        "gain": start.objective_value - point.objective_value,
        "radius": point.radius,
        # In float64: a float32 sum of squares over millions of weights loses digits.
        "weights_distance": float(torch.linalg.vector_norm(point.weights - start.weights, dtype=torch.float64)),
        ACCURACY: point.probes.get(ACCURACY),
        "seconds": point.seconds,
        "weights_file": weights.file,
        "weights_sha256": weights.sha256,
    }


def measure_rows(points: Sequence[PathPoint]) -> list[Row]:
    """Rows of `point_measures`: the study's own measures.

    Args:
        points: saved points of a path.

    Returns:
        A row for each point and measure; clean accuracy is a column of `points` instead.
    """
    return [
        {"step": point.step, "measure": name, "value": value}
        for point in points
        for name, value in point.probes.items()
        if name != ACCURACY
    ]


def distance_rows(points: Sequence[PathPoint]) -> list[Row]:
    """Rows of `point_distances`: functional distance of each kept quantity.

    Args:
        points: saved points of a path.

    Returns:
        A row for each point and kept quantity.
    """
    return [
        {"step": point.step, "kept": name, "distance": distance, "distance_held_out": point.distances_held_out[name]}
        for point in points
        for name, distance in point.distances.items()
    ]


def end_columns(path: WeightPath, objective: Objective, num_tests: int) -> Row:
    """Columns of `paths` about the outcome, with warnings where the path made something worse.

    Args:
        path: the path.
        objective: its objective.
        num_tests: number of labelled test inputs on which clean accuracy was measured.

    Returns:
        Values by column: outcome, objective at the start and the end, and warnings.
    """
    start, end, fall = path.points[0], path.end, accuracy_collapse(path.points, num_tests)
    objective_change = improvement(objective, start, end)
    is_better = objective_change.endswith(": better")
    warnings = [objective_change] if objective_change and not is_better else []
    sentence, step = path.outcome.sentence, None
    if fall:
        step, collapsed = fall
        warnings.append(collapsed)
        sentence = f"{sentence}; {collapsed}"
    return {
        "outcome": sentence,
        "outcome_kind": path.outcome.kind,
        "objective_start": start.objective_value,
        "objective_end": end.objective_value,
        "accuracy_collapsed_step": step,
        "warnings": "; ".join(warnings),
    }


def accuracy_collapse(points: Sequence[PathPoint], num_tests: int) -> tuple[int, str] | None:
    """First saved point at which clean accuracy had collapsed.

    Accuracy has collapsed where it is more than 10 percentage points below that of the start, and more than four
    standard errors of the difference of two accuracies `a`, `b` on `num_tests` examples,
    `sqrt((a (1 - a) + b (1 - b)) / num_tests)`.

    Args:
        points: saved points of a path, the first of them its start.
        num_tests: number of labelled test inputs.

    Returns:
        The step, and a sentence that says whether accuracy had recovered by the end; None for no collapse.
    """
    measured = [(point.step, point.probes[ACCURACY]) for point in points if ACCURACY in point.probes]
    for step, fraction in measured[1:]:
        first, last = measured[0][1], measured[-1][1]
        if _is_collapse(first, fraction, num_tests):
            sentence = f"clean accuracy fell from {100 * first:.1f} % to {100 * fraction:.1f} % by step {step}"
            has_recovered = not _is_collapse(first, last, num_tests)
            return step, f"{sentence}, and recovered to {100 * last:.1f} %" if has_recovered else sentence
    return None


def _is_collapse(first: float, later: float, num_tests: int) -> bool:
    error = ((first * (1 - first) + later * (1 - later)) / num_tests) ** 0.5
    return first - later > max(LARGEST_FALL, STANDARD_ERRORS * error)


def variant_row(network: Network, name: str, point: PathPoint, weights: WeightsFile, inputs: Tensor) -> Row:
    """Row of `variants`, without the columns that all rows of a path share.

    Args:
        network: the network whose weights the point holds.
        name: name of the variant.
        point: the point of the path that it is.
        weights: file with its weights.
        inputs: inputs [N, ...] that the network takes, to count operations.

    Returns:
        Values by column: size, sparsity by layer, and what was measured.
    """
    sizes = asdict(footprint_of(network, point.weights, inputs))
    return {
        "network": name,
        "step": point.step,
        # The footprint's sparsity is by layer, and has a column of its own below.
        **{**sizes, "sparsity": point.sparsity},
        "sparsity_by_layer_json": json.dumps(sizes["sparsity"]),
        "functional_distance_held_out": point.functional_distance_held_out,
        ACCURACY: point.probes.get(ACCURACY),
        "weights_file": weights.file,
        "weights_sha256": weights.sha256,
    }


def task_rows(
    network: Network, tests: Mapping[str, tuple[int, Examples]], learned: Collection[str], path: WeightPath
) -> list[Row]:
    """Rows of `tasks`, without the columns that all rows of a path share.

    Args:
        network: the network whose weights the path changes.
        tests: number and labelled test inputs of each task, by name.
        learned: names of the tasks that the path's objective learns.
        path: the path.

    Returns:
        A row for each task, with its accuracy at the start and at the end of the path.
    """
    return [
        {
            "task": name,
            "task_number": number,
            "learned": name in learned,
            "num_examples": len(examples),
            "accuracy_at_start": accuracy(network, path.points[0].weights, examples),
            "accuracy": accuracy(network, path.end.weights, examples),
        }
        for name, (number, examples) in tests.items()
    ]
