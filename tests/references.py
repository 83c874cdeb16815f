"""Functions that open data by reference, as workers import them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset


def written(folder: Path, count: int = 600, size: int = 4) -> dict[str, str]:
    """Write arrays of examples in two classes, and return the parameters of the functions below."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, count)
    inputs = (random.random((count, size)) * 0.5 + labels[:, None] * 0.3).astype(np.float32)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "labels.npy", labels)
    return {"folder": str(folder)}


def mapped(folder: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Memory map with labels."""
    return np.load(Path(folder, "inputs.npy"), mmap_mode="r"), np.load(Path(folder, "labels.npy"))


class Jittered(Dataset[Any]):
    """Examples with noise from each of the three global generators."""

    def __init__(self, folder: str) -> None:
        self.inputs, self.targets = mapped(folder)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = torch.rand(self.inputs.shape[1]) + np.random.random() + random.random()  # noqa: NPY002
        return torch.from_numpy(self.inputs[index].copy()) * 0.9 + noise / 30, int(self.targets[index])


def jittered(folder: str) -> Dataset[Any]:
    """Data set with random transforms."""
    return Jittered(folder)


def counted(folder: str) -> Dataset[Any]:
    """Data set that says which of its examples were read."""
    return Counted(folder)


class Counted(Jittered):
    """Examples whose indices are kept in `seen`."""

    seen: list[int] = []

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.seen.append(index)
        return torch.from_numpy(self.inputs[index].copy()), int(self.targets[index])


def broken(folder: str, index: int, value: float) -> dict[str, Any]:
    """Parts, of which the training examples have a wrong value at one index."""
    inputs, labels = (np.array(each) for each in mapped(folder))
    inputs[index, 0] = value
    return {"train": (inputs, labels), "test": (inputs[:50], labels[:50])}
