"""How a path that was cut off goes on: the points that it kept, and its solver's state at the last of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from safetensors import SafetensorError

from fipray.errors import RecordsError
from fipray.paths import PathPoint
from fipray.records import Store
from fipray.records.encoding import safetensors_bytes, sha256_of
from fipray.records.layout import attempt_directory, weights_file

_STATE, _NUMBERS, _FILES, _DIGESTS, _SEAL = "state-{:08d}", "numbers", "files", "digests", "seal"
_FIELDS = [f.name for f in fields(PathPoint) if f.name not in ("weights", "probes", "solver_state")]

Files = dict[int, tuple[str, str]]  # of each kept step: the weights file and its sha256


def save(store: Store, id: str, attempt: int, points: Sequence[PathPoint], files: Files) -> None:
    """Write what the path needs to go on from the last of `points`, in place of what an earlier point left."""
    last, probes = points[-1], sorted(points[-1].probes)
    numbers = [[float(getattr(p, name)) for name in _FIELDS] + [p.probes[name] for name in probes] for p in points]
    arrays = {f"solver.{name}": value.cpu().numpy() for name, value in last.solver_state.items()}
    arrays[_NUMBERS] = np.array(numbers, dtype=np.float64)
    arrays[_FILES], arrays[_DIGESTS] = (
        np.frombuffer("\n".join(files[p.step][k] for p in points).encode(), dtype=np.uint8) for k in (0, 1)
    )
    arrays[_SEAL] = _seal(arrays)
    store.write_weights(id, attempt, _STATE.format(last.step), arrays)
    remove(store, id, attempt, before=last.step)


def load(store: Store, id: str, attempt: int, probes: Sequence[str], device: str) -> tuple[list[PathPoint], Files]:
    """The points that earlier attempts kept, the last of them with its solver state; nothing where there are none.

    What is damaged is passed over: the path then begins where the last whole attempt left it, or anew.
    """
    for earlier in range(attempt - 1, 0, -1):
        folder = store.directory / attempt_directory(id, earlier)
        for file in sorted(folder.glob("state-*.safetensors"), reverse=True):
            try:
                return _load(store, weights_file(id, earlier, file.stem), sorted(probes), device)
            except (RecordsError, SafetensorError, KeyError, ValueError, OSError):
                continue
    return [], {}


def remove(store: Store, id: str, attempt: int, before: int | None = None) -> None:
    """Remove the solver states that an attempt left, or those of steps before `before`."""
    for file in (store.directory / attempt_directory(id, attempt)).glob("state-*.safetensors"):
        if before is None or int(file.stem.removeprefix("state-")) < before:
            file.unlink(missing_ok=True)


def _seal(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """No row names a solver state, so it carries its own digest."""
    return np.frombuffer(sha256_of(safetensors_bytes(dict(sorted(arrays.items())))).encode(), dtype=np.uint8)


def _load(store: Store, file: str, probes: Sequence[str], device: str) -> tuple[list[PathPoint], Files]:
    arrays = store.read_weights(file, None)
    if not np.array_equal(arrays.pop(_SEAL), _seal(arrays)):
        raise ValueError(f"{file} is altered")
    names, digests = (bytes(arrays[name]).decode().split("\n") for name in (_FILES, _DIGESTS))
    points: list[PathPoint] = []
    for row, name, digest in zip(arrays[_NUMBERS], names, digests, strict=True):
        values = dict(zip([*_FIELDS, *probes], (float(value) for value in row), strict=True))
        values["step"] = int(values["step"])
        weights = torch.from_numpy(store.read_weights(name, digest)["weights"]).to(device)
        points.append(
            PathPoint(weights=weights, probes={p: values.pop(p) for p in probes}, **values)  # type: ignore[arg-type]
        )
    solver = {
        name.removeprefix("solver."): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith("solver.")
    }
    for name, value in solver.items():
        if value.is_floating_point():  # counts and the generator's state stay where they are, on the CPU
            solver[name] = value.to(device)
    points[-1] = PathPoint(**{**vars(points[-1]), "solver_state": solver})
    return points, {point.step: (name, digest) for point, name, digest in zip(points, names, digests, strict=True)}
