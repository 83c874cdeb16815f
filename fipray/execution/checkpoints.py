"""How a path that was cut off, or waits for a round, goes on: the points that it kept, and its solver's state at the
last of them.
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

_NUMBERS, _COLUMNS, _FILES, _DIGESTS = "numbers", "columns", "files", "digests"
_ROUND, _SEAL = "round", "seal"
_BY_NAME = ("probes", "distances", "distances_held_out")  # the fields of a point that hold a number for each name
_FIELDS = [f.name for f in fields(PathPoint) if f.name not in ("weights", "solver_state", *_BY_NAME)]

Files = dict[int, tuple[str, str]]  # of each kept step: the weights file and its sha256


@dataclass
class Kept:
    """What is kept of a path: points and the files of their weights, the round it is in, and, where that round is over,
    why its walk ended: it waits, or the path is done early. A path that is not walked in rounds is always in its first.
    """

    points: list[PathPoint] = field(default_factory=list)
    files: Files = field(default_factory=dict)
    round: int = 1
    outcome: Outcome | None = None


def save(store: Store, id: str, attempt: int, kept: Kept) -> None:
    """Write what the path needs to go on from the last of its points, in place of what an earlier point left."""
    last = kept.points[-1]
    rows = [_numbers(point) for point in kept.points]
    outcome = (kept.outcome.kind, kept.outcome.sentence) if kept.outcome else ()
    arrays = {f"solver.{name}": to_array(value) for name, value in last.solver_state.items()}
    arrays[_NUMBERS] = np.array([list(row.values()) for row in rows], dtype=np.float64)
    arrays[_COLUMNS] = _array(list(rows[-1]))
    arrays[_FILES], arrays[_DIGESTS] = (_array([kept.files[p.step][k] for p in kept.points]) for k in (0, 1))
    arrays[_ROUND] = _array([str(kept.round), *outcome])
    arrays[_SEAL] = _seal(arrays)
    store.write_weights(id, attempt, state_name(last.step), arrays)
    for file, step in _states(store, id, attempt):
        if step < last.step:
            store.remove_weights(file)


def load(store: Store, id: str, attempt: int, probes: Sequence[str], device: str) -> Kept | None:
    """What attempts before this one kept, the last point with its solver state; None where there is nothing.

    What is damaged is passed over: the path then begins where the last whole attempt left it, or anew.
    """
    for earlier in range(attempt - 1, 0, -1):
        for file, _ in reversed(_states(store, id, earlier)):
            if kept := _whole(store, file, probes, device):
                return kept
    return None


def load_end(store: Store, end: str, probes: Sequence[str], device: str) -> Kept | None:
    """What was kept beside the weights file `end` that a round ended with; None where it is damaged or gone."""
    return _whole(store, state_beside(end), probes, device)


def remove(store: Store, id: str) -> None:
    """Remove the solver states that attempts left."""
    for attempt in store.attempts(id):
        for file, _ in _states(store, id, attempt):
            store.remove_weights(file)


def _states(store: Store, id: str, attempt: int) -> list[tuple[str, int]]:
    """The solver states that an attempt has kept, with their steps, in order."""
    files = store.attempt_files(id, attempt)
    return [(file, step) for file in files if (step := step_of_state(file)) is not None]


def _whole(store: Store, file: str, probes: Sequence[str], device: str) -> Kept | None:
    try:
        return _load(store, file, sorted(probes), device)
    except (RecordsError, LookupError, ArithmeticError, TypeError, ValueError, RuntimeError):
        return None  # whatever is in the file: it was not written by `save`


def _numbers(point: PathPoint) -> dict[str, float]:
    """All that was measured at a point, by columns such as "step" and "probes/clean_accuracy"."""
    found = {name: float(getattr(point, name)) for name in _FIELDS}
    return found | {f"{name}/{key}": value for name in _BY_NAME for key, value in sorted(getattr(point, name).items())}


def _point(numbers: Mapping[str, float], weights: Tensor) -> PathPoint:
    """The point that `_numbers` made these of."""
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
    """No row names a solver state, so it carries its own digest."""
    return np.frombuffer(sha256_of(safetensors_bytes(dict(sorted(arrays.items())))).encode(), dtype=np.uint8)


def _load(store: Store, file: str, probes: Sequence[str], device: str) -> Kept:
    arrays = store.read_unnamed(file)
    if not np.array_equal(arrays.pop(_SEAL), _seal(arrays)):
        raise ValueError(f"{file} is altered")
    names, digests, (number, *ended) = (_texts(arrays[name]) for name in (_FILES, _DIGESTS, _ROUND))
    columns, points = _texts(arrays[_COLUMNS]), list[PathPoint]()
    for row, name, digest in zip(arrays[_NUMBERS], names, digests, strict=True):
        weights = torch.from_numpy(store.read_weights(name, digest)["weights"]).to(device)
        points.append(_point(dict(zip(columns, map(float, row), strict=True)), weights))
        if sorted(points[-1].probes) != probes:
            raise ValueError(f"{file} holds points with other probes")
    steps = [point.step for point in points]
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
    return Kept(points, files, int(number), Outcome(ended[0], "\n".join(ended[1:])) if ended else None)
