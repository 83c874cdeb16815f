"""The study's data as tensors on the device of a worker."""

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
from fipray.networks import Network
from fipray.paths import Examples
from fipray.robustness import correct
from fipray.study.data import Data


@dataclass(frozen=True, eq=False)
class Tensors:
    """Each is made when it is first asked for; on a CPU it is the array itself."""

    data: Data
    device: str

    def anchors(self, names: tuple[str, ...]) -> Tensor:
        """The inputs of the sets of these names, one after the other; without any, the data's anchors."""
        return self._sets(names) if names else self._anchors

    def held_out(self, names: tuple[str, ...]) -> Tensor:
        return self._sets(names) if names else self._held_out

    @cached_property
    def tests(self) -> Examples | None:
        """The labelled test inputs."""
        return self._examples(self.data.test_inputs, self.data.test_labels)

    @cached_property
    def ood_inputs(self) -> Tensor | None:
        return None if self.data.ood_inputs is None else self._tensor(self.data.ood_inputs)

    @cached_property
    def tasks(self) -> dict[str, Examples]:
        """What tasks are learned from."""
        made = {name: self._examples(task.inputs, task.labels) for name, task in self.data.tasks.items()}
        return {name: examples for name, examples in made.items() if examples}

    @cached_property
    def task_tests(self) -> dict[str, tuple[int, Examples]]:
        """What tasks are judged by, with their numbers, from 1; of those that can be."""
        numbered = {
            name: (number, self._examples(task.test_inputs, task.test_labels))
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
        return sets[0] if len(sets) == 1 else torch.cat(sets)

    def _examples(self, inputs: NDArray[np.generic] | None, labels: NDArray[np.integer] | None) -> Examples | None:
        if inputs is None or labels is None:
            return None
        return Examples(self._tensor(inputs), self._tensor(labels).long())

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return tensor_of(array).to(self.device)


def kept_of(geometry: OutputGeometry, keeps: Mapping[str, Kept], tensors: Tensors) -> dict[str, Any]:
    """What must stay on every path of a study, as arguments of a problem; inputs are those of the data's sets."""
    named = {name for kept in keeps.values() for name in (kept.on, kept.held_out) if name}
    return {"geometry": geometry, "keeps": keeps, "sets": {name: tensors.anchors((name,)) for name in sorted(named)}}


def tensor_of(array: NDArray[np.generic]) -> Tensor:
    """The array itself as a tensor on the CPU, for reading alone."""
    with warnings.catch_warnings():  # arrays in Ray's object store, for example, are read-only
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


@torch.no_grad()
def accuracy(network: Network, weights: Tensor, examples: Examples) -> float:
    """Share of the examples, 0..1, that the network classifies correctly at `weights` [P]; NaN is wrong."""
    outputs = class_logits(network.outputs(weights, examples.inputs))
    return float(correct(outputs, examples.labels).double().mean())
