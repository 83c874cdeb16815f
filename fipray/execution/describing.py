"""What the tables say of a path: of its points, of the sparse networks that it passed through, and of tasks."""

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
LARGEST_FALL = 0.1  # of accuracy
STANDARD_ERRORS = 4.0  # of the difference, that chance does not reach


def describe(point: PathPoint, start: PathPoint, weights: WeightsFile) -> Row:
    """What the tables say of a point."""
    return {
        "step": point.step,
        "sparsity": point.sparsity,
        "functional_distance": point.functional_distance,
        "functional_distance_held_out": point.functional_distance_held_out,
        "objective_value": point.objective_value,
        "gain": start.objective_value - point.objective_value,
        "radius": point.radius,
        "weights_distance": float(torch.linalg.vector_norm(point.weights - start.weights, dtype=torch.float64)),
        ACCURACY: point.probes.get(ACCURACY),
        "seconds": point.seconds,
        "weights_file": weights.file,
        "weights_sha256": weights.sha256,
    }


def describe_measures(points: Sequence[PathPoint]) -> list[Row]:
    """What was measured at points for the study alone."""
    return [
        {"step": point.step, "measure": name, "value": value}
        for point in points
        for name, value in point.probes.items()
        if name != ACCURACY
    ]


def describe_distances(points: Sequence[PathPoint]) -> list[Row]:
    """How far each kept quantity is from its target at points."""
    return [
        {"step": point.step, "kept": name, "distance": distance, "distance_held_out": point.distances_held_out[name]}
        for point in points
        for name, distance in point.distances.items()
    ]


def describe_end(path: WeightPath, objective: Objective, num_tests: int) -> Row:
    """What the tables say of a path's end, and of whether anything speaks against the path."""
    start, end, fall = path.points[0], path.end, collapse(path.points, num_tests)
    said = improvement(objective, start, end)
    warnings = [] if said.endswith(": better") else [said] if said else []
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


def collapse(points: Sequence[PathPoint], num_tests: int) -> tuple[int, str] | None:
    """Whether the clean accuracy collapsed on the way: the first step at which it did, and a sentence; or None.

    It did at a kept point where it lies more than 10 percentage points below the start's, and more than four standard
    errors of the difference of two accuracies on `num_tests` examples, `sqrt((a (1 - a) + b (1 - b)) / num_tests)`.
    """
    measured = [(point.step, point.probes[ACCURACY]) for point in points if ACCURACY in point.probes]
    for step, fraction in measured[1:]:
        first, last = measured[0][1], measured[-1][1]
        if _is_collapse(first, fraction, num_tests):
            sentence = f"clean accuracy fell from {100 * first:.1f} % to {100 * fraction:.1f} % by step {step}"
            is_over = not _is_collapse(first, last, num_tests)
            return step, f"{sentence}, and came back to {100 * last:.1f} %" if is_over else sentence
    return None


def _is_collapse(first: float, later: float, num_tests: int) -> bool:
    error = ((first * (1 - first) + later * (1 - later)) / num_tests) ** 0.5
    return first - later > max(LARGEST_FALL, STANDARD_ERRORS * error)


def describe_variant(network: Network, name: str, point: PathPoint, weights: WeightsFile, inputs: Tensor) -> Row:
    """What the tables say of a sparse network; `inputs` [N, ...] are such as it takes."""
    sizes = asdict(footprint_of(network, point.weights, inputs))
    return {
        "network": name,
        "step": point.step,
        **{**sizes, "sparsity": point.sparsity},
        "sparsity_by_layer_json": json.dumps(sizes["sparsity"]),
        "functional_distance_held_out": point.functional_distance_held_out,
        ACCURACY: point.probes.get(ACCURACY),
        "weights_file": weights.file,
        "weights_sha256": weights.sha256,
    }


def describe_tasks(
    network: Network, tests: Mapping[str, tuple[int, Examples]], learned: Collection[str], path: WeightPath
) -> list[Row]:
    """What the tables say of the tasks, each with its number: how well it is done where the path began and ended."""
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
