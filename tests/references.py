"""Functions that open data by reference, as workers import them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from fipray.study import TarImages


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


def images(path: str, part: str = "") -> Any:
    """Folder of images or tar of one, as it is, or a part of it with a transform."""
    if not part:
        return path
    return {"train": TarImages(path, part, _cropped)}


def _cropped(image: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image)[:4, :4].copy()).permute(2, 0, 1).float() / 255


def parts(folder: str) -> dict[str, Any]:
    """All parts that there can be."""
    inputs, labels = mapped(folder)
    return {
        "train": inputs[:300],
        "held_out": inputs[300:400],
        "test": (inputs[400:500], labels[400:500]),
        "ood": inputs,
    }


def stream(folder: str) -> Any:
    """Examples without an index."""
    return iter(mapped(folder)[0])


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

    seen: ClassVar[list[int]] = []

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.seen.append(index)
        return torch.from_numpy(self.inputs[index].copy()), int(self.targets[index])


def broken(folder: str, index: int, value: float) -> dict[str, Any]:
    """Parts, of which the training examples have a wrong value at one index."""
    inputs, labels = (np.array(each) for each in mapped(folder))
    inputs[index, 0] = value
    return {"train": (inputs, labels), "test": (inputs[:50], labels[:50])}


class Named:
    """Data set of token IDs and masks with columns, as of Hugging Face."""

    features = None
    column_names: ClassVar[list[str]] = ["input_ids", "attention_mask", "label"]

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        lengths = random.integers(2, 6, count)
        self.columns = {
            "input_ids": random.integers(0, 50, (count, 6)),
            "attention_mask": (np.arange(6) < lengths[:, None]).astype(np.int64),
            "label": random.integers(0, 3, count),
        }

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, index: int | str) -> Any:
        if isinstance(index, str):
            return self.columns[index]
        return {name: column[index] for name, column in self.columns.items()}


def named(count: int) -> Named:
    """Data set of several inputs by name."""
    return Named(count)
