"""Data of a study as tensors on a worker's device."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fipray.geometry import Kept, OutputGeometry, class_logits
from fipray.networks import Deferred, Joined, Network
from fipray.paths import Examples
from fipray.robustness import correct
from fipray.study.data import Data
from fipray.study.referenced import Array, ReferencedArray


@dataclass(frozen=True, eq=False)
class Tensors:
    """Data of a study as tensors, each created on first use.

    Args:
        data: data of the study; inputs by reference are deferred (`fipray.networks.Deferred`).
        device: torch device; on "cpu" the tensors share the arrays' memory and must not be written to.
    """

    data: Data
    device: str

    def anchors(self, names: tuple[str, ...]) -> Tensor:
        """Anchor inputs of a path.

        Args:
            names: names among the data's sets, which are concatenated; empty for the data's anchors.

        Returns:
            Inputs [N, ...].
        """
        return self._sets(names) if names else self._anchors

    def held_out(self, names: tuple[str, ...]) -> Tensor:
        """Held-out inputs of a path.

        Args:
            names: names among the data's sets, which are concatenated; empty for the data's held-out inputs.

        Returns:
            Inputs [N, ...].
        """
        return self._sets(names) if names else self._held_out

    @cached_property
    def held_out_labels(self) -> Tensor | None:
        """Classes [M] of the data's held-out inputs; None without labels."""
        labels = self.data.held_out_labels
        return None if labels is None else self._tensor(labels).long()

    @cached_property
    def tests(self) -> Examples | None:
        """Labelled test inputs; None without any."""
        return self._examples(self.data.test_inputs, self.data.test_labels)

    @cached_property
    def ood_inputs(self) -> Tensor | None:
        return None if self.data.ood_inputs is None else self._tensor(self.data.ood_inputs)

    @cached_property
    def tasks(self) -> dict[str, Examples]:
        """Training examples of the tasks, by name."""
        made = {name: self._examples(task.inputs, task.labels) for name, task in self.data.tasks.items()}
        return {name: examples for name, examples in made.items() if examples}

    @cached_property
    def task_tests(self) -> dict[str, tuple[int, Examples]]:
        """Number of each task, counted from 1 in the order of the data, and test examples of those that have any."""
        numbered = {
            name: (number, self._examples(task.test_inputs, task.test_labels))
            # Numbered before those without test inputs are dropped, so that numbers match the order of the data.
            for number, (name, task) in enumerate(self.data.tasks.items(), 1)
        }
        return {name: (number, examples) for name, (number, examples) in numbered.items() if examples}

    @cached_property
    def _anchors(self) -> Tensor:
        return self._tensor(self.data.anchors)

    @cached_property
    def _held_out(self) -> Tensor:
        return self._tensor(self.data.held_out)

    def _sets(self, names: tuple[str, ...]) -> Tensor:
        sets = [self._tensor(self.data.sets[name]) for name in names]
        if len(sets) > 1 and any(isinstance(each, Deferred) for each in sets):
            return Deferred(Joined(sets), self.device)
        return sets[0] if len(sets) == 1 else torch.cat(sets)

    def _examples(self, inputs: Array | None, labels: NDArray[np.integer] | None) -> Examples | None:
        if inputs is None or labels is None:
            return None
        return Examples(self._tensor(inputs), self._tensor(labels).long())  # torch's losses take int64 only

    def _tensor(self, array: Array) -> Tensor:
        return tensor_of(array).to(self.device)


def kept_of(geometry: OutputGeometry, keeps: Mapping[str, Kept], tensors: Tensors) -> dict[str, Any]:
    """Geometry and kept quantities of a study as arguments of a `Problem`.

    Args:
        geometry: output geometry.
        keeps: kept quantities by name.
        tensors: data of the study.

    Returns:
        Arguments `geometry`, `keeps` and `sets`, the latter with the inputs of the sets that `keeps` name.
    """
    named = {name for kept in keeps.values() for name in (kept.on, kept.held_out) if name}
    return {"geometry": geometry, "keeps": keeps, "sets": {name: tensors.anchors((name,)) for name in sorted(named)}}


@dataclass(frozen=True, eq=False)
class Reading:
    """Inputs by reference as torch reads them: a `Readable`.

    Args:
        array: the inputs.
    """

    array: ReferencedArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [N, ...]."""
        return self.array.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.from_numpy(np.empty(0, self.array.dtype)).dtype

    @property
    def is_fresh(self) -> bool:
        """Whether random transforms are drawn anew in each draw."""
        return self.array.ref.augments

    def read(self, indices: Tensor, seed: int) -> Tensor:
        """See `Readable`."""
        return torch.from_numpy(self.array.read(indices.numpy(), seed))


def tensor_of(array: Array) -> Tensor:
    """Convert an array to a tensor without a copy.

    Args:
        array: numpy array, possibly read-only, or inputs by reference.

    Returns:
        Tensor on the CPU that shares the array's memory and must not be written to; of inputs by reference, a deferred
        one.
    """
    if isinstance(array, ReferencedArray):
        return Deferred(Reading(array))
    with warnings.catch_warnings():  # arrays in Ray's object store are read-only, of which torch warns
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@torch.no_grad()
def accuracy(network: Network, weights: Tensor, examples: Examples) -> float:
    """Fraction of examples that a network classifies correctly.

    Args:
        network: classifier.
        weights: its weights [P].
        examples: labelled examples.

    Returns:
        Accuracy, 0..1; an example with NaN outputs counts as wrong.
    """
    outputs = class_logits(network.outputs(weights, examples.inputs))
    return float(correct(outputs, examples.labels).double().mean())
