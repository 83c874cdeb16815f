"""What the tables say of a path: of its points, of the sparse networks that it passed through, and of tasks."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from fipray.geometry import Network, sizes_of
from fipray.paths import Examples, PathPoint, WeightPath
from fipray.study.tensors import accuracy
from fipray.study.work import WeightsFile

Row = dict[str, Any]


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
        "weights_norm_moved": float(torch.linalg.vector_norm(point.weights - start.weights)),
        "clean_accuracy": point.probes.get("clean_accuracy"),
        "seconds": point.seconds,
        "weights_file": weights.file,
        "weights_sha256": weights.sha256,
    }


def describe_variant(network: Network, name: str, point: PathPoint, weights: WeightsFile, inputs: Tensor) -> Row:
    """What the tables say of a sparse network; `inputs` [N, ...] are such as it takes."""
    sizes = asdict(sizes_of(network, point.weights, inputs))
    return {
        "network": name,
        "step": point.step,
        **{**sizes, "sparsity": point.sparsity},
        "sparsity_by_layer_json": json.dumps(sizes["sparsity"]),
        "functional_distance_held_out": point.functional_distance_held_out,
        "clean_accuracy": point.probes.get("clean_accuracy"),
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
