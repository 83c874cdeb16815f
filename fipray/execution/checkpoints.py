"""Checkpoints of paths: the saved points, and the solver state at the last of them, from which a path is resumed.

Weights of points are files that rows name. The solver state is one more file beside them, `state-STEP`, which no row
names; it is removed once the path is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fipray.errors import RecordsError
from fipray.paths import Outcome, PathPoint
from fipray.records import Store
from fipray.records.encoding import safetensors_bytes, sha256_of
from fipray.records.layout import state_beside, state_name, step_of_state
from fipray.study.arrays import to_array, to_tensor

# Names of the arrays in a file.
_NUMBERS, _COLUMNS, _FILES, _DIGESTS = "numbers", "columns", "files", "digests"
_ROUND, _SEAL = "round", "seal"
_BY_NAME = ("probes", "distances", "distances_held_out")  # fields of a point that hold one number for each name
# Taken from the class, so that a number that is added to points cannot be forgotten in checkpoints.
_FIELDS = [f.name for f in fields(PathPoint) if f.name not in ("weights", "solver_state", *_BY_NAME)]

Files = dict[int, tuple[str, str]]  # by step: name and sha256 of the weights file


@dataclass
class Checkpoint:
    """Saved points of a path, and the round that it is in.

    Args:
        points: saved points in order; the last has a solver state unless the path has ended.
        files: weights files of the points, by step.
        round: number of the round; always 1 for a path that is not traced in rounds.
        outcome: outcome of that round once it is over: paused, or why the path ended early. None within a round.
    """

    points: list[PathPoint] = field(default_factory=list)
    files: Files = field(default_factory=dict)
    round: int = 1
    outcome: Outcome | None = None


def save(store: Store, id: str, attempt: int, checkpoint: Checkpoint) -> None:
    """Write the solver state of the last point, then remove those of earlier points.

    Args:
        store: results directory.
        id: ID of the job.
        attempt: number of the attempt.
        checkpoint: the points, whose weights are already written.
    """
    last = checkpoint.points[-1]
    rows = [_numbers(point) for point in checkpoint.points]
    outcome = (checkpoint.outcome.kind, checkpoint.outcome.sentence) if checkpoint.outcome else ()
    arrays = {f"solver.{name}": to_array(value) for name, value in last.solver_state.items()}
    # float64 holds every float32, and steps up to 2**53, exactly: a resumed path is bit for bit the uninterrupted one.
    arrays[_NUMBERS] = np.array([list(row.values()) for row in rows], dtype=np.float64)
    arrays[_COLUMNS] = _array(list(rows[-1]))
    files = [checkpoint.files[point.step] for point in checkpoint.points]
    arrays[_FILES], arrays[_DIGESTS] = _array([file for file, _ in files]), _array([sha256 for _, sha256 in files])
    arrays[_ROUND] = _array([str(checkpoint.round), *outcome])
    arrays[_SEAL] = _seal(arrays)
    store.write_weights(id, attempt, state_name(last.step), arrays)
    # Only now, so that a kill at any moment leaves at least one intact state.
    for file, step in _states(store, id, attempt):
        if step < last.step:
            store.remove_weights(file)


def load(store: Store, id: str, attempt: int, probes: Sequence[str], device: str) -> Checkpoint | None:
    """Load the latest intact checkpoint of earlier attempts at a job.

    Damaged files are skipped: the path is then resumed from an older checkpoint, or starts again.

    Args:
        store: results directory.
        id: ID of the job.
        attempt: number of the present attempt, which is not looked at.
        probes: names of the probes that points must have.
        device: device for weights and solver state.

    Returns:
        The checkpoint; None where there is none.
    """
    # The latest attempt first: each continues from what the one before it saved, so its states lie further on.
    for earlier in range(attempt - 1, 0, -1):
        for file, _ in reversed(_states(store, id, earlier)):
            if checkpoint := _load_intact(store, file, probes, device):
                return checkpoint
    return None


def load_end(store: Store, end: str, probes: Sequence[str], device: str) -> Checkpoint | None:
    """Load the checkpoint with which a round ended.

    Args:
        store: results directory.
        end: weights file at the end of the round.
        probes: names of the probes that points must have.
        device: device for weights and solver state.

    Returns:
        The checkpoint; None where it is damaged or removed.
    """
    return _load_intact(store, state_beside(end), probes, device)


def remove(store: Store, id: str) -> None:
    """Remove the solver states of all attempts at a job; the weights of its points stay.

    Args:
        store: results directory.
        id: ID of the job.
    """
    for attempt in store.attempts(id):
        for file, _ in _states(store, id, attempt):
            store.remove_weights(file)


def _states(store: Store, id: str, attempt: int) -> list[tuple[str, int]]:
    """Files and steps of an attempt's solver states, in order of the steps."""
    files = store.attempt_files(id, attempt)
    return [(file, step) for file in files if (step := step_of_state(file)) is not None]


def _load_intact(store: Store, file: str, probes: Sequence[str], device: str) -> Checkpoint | None:
    try:
        return _load(store, file, sorted(probes), device)
    except (RecordsError, LookupError, ArithmeticError, TypeError, ValueError, RuntimeError):
        return None  # all that bytes can raise that `save` did not write


def _numbers(point: PathPoint) -> dict[str, float]:
    """All that was measured at a point, by columns such as "step" and "probes/clean_accuracy"."""
    found = {name: float(getattr(point, name)) for name in _FIELDS}
    return found | {f"{name}/{key}": value for name in _BY_NAME for key, value in sorted(getattr(point, name).items())}


def _point(numbers: Mapping[str, float], weights: Tensor) -> PathPoint:
    """Inverse of `_numbers`, without the solver state."""
    values: dict[str, Any] = {name: numbers[name] for name in _FIELDS}
    for name in _BY_NAME:
        start = f"{name}/"
        values[name] = {key.removeprefix(start): value for key, value in numbers.items() if key.startswith(start)}
    return PathPoint(**{**values, "step": int(numbers["step"]), "weights": weights})


def _array(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer("\n".join(texts).encode(), dtype=np.uint8)


def _texts(array: np.ndarray) -> list[str]:
    return bytes(array).decode().split("\n")


def _seal(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Digest of all other arrays: no row names a state file with its sha256, so the file carries its own."""
    return np.frombuffer(sha256_of(safetensors_bytes(dict(sorted(arrays.items())))).encode(), dtype=np.uint8)


def _load(store: Store, file: str, probes: Sequence[str], device: str) -> Checkpoint:
    arrays = store.read_unnamed(file)
    if not np.array_equal(arrays.pop(_SEAL), _seal(arrays)):
        raise ValueError(f"{file} does not have the digest that it was written with")
    # Texts are joined by line breaks, which names cannot hold. The sentence of an outcome can, so it is last.
    names, digests, (number, *ended) = (_texts(arrays[name]) for name in (_FILES, _DIGESTS, _ROUND))
    columns, points = _texts(arrays[_COLUMNS]), list[PathPoint]()
    for row, name, digest in zip(arrays[_NUMBERS], names, digests, strict=True):
        weights = torch.from_numpy(store.read_weights(name, digest)["weights"]).to(device)
        points.append(_point(dict(zip(columns, map(float, row), strict=True)), weights))
        if sorted(points[-1].probes) != probes:
            raise ValueError(f"{file} holds points with other probes")
    steps = [point.step for point in points]
    # The digest holds for what `save` was given; an incomplete list of points would become wrong rows.
    if steps[0] != 0 or steps != sorted(set(steps)):
        raise ValueError(f"{file} holds points at steps {steps}")
    solver = {
        name.removeprefix("solver."): to_tensor(value) for name, value in arrays.items() if name.startswith("solver.")
    }
    for name, value in solver.items():
        if value.is_floating_point():  # counts and the generator's state stay where they are, on the CPU
            solver[name] = value.to(device)
    points[-1] = PathPoint(**{**vars(points[-1]), "solver_state": solver})
    files = {point.step: (name, digest) for point, name, digest in zip(points, names, digests, strict=True)}
    return Checkpoint(points, files, int(number), Outcome(ended[0], "\n".join(ended[1:])) if ended else None)
