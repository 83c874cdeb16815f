"""The inputs and labels that a study works on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fipray.border import checked
from fipray.errors import DataError
from fipray.study.normalised import check_labels, normalised


@checked
@dataclass(frozen=True, eq=False)
class Task:
    """A task that paths may learn: labelled inputs [N, ...] with labels [N], and others to judge it by, or none."""

    inputs: NDArray[np.generic]
    labels: NDArray[np.integer]
    test_inputs: NDArray[np.generic] | None = None
    test_labels: NDArray[np.integer] | None = None

    def __post_init__(self) -> None:
        for name in ("inputs", "labels", "test_inputs", "test_labels"):
            object.__setattr__(self, name, normalised(f"{name} of a task", getattr(self, name)))
        if (self.test_inputs is None) != (self.test_labels is None):
            raise DataError("test_inputs and test_labels of a task come together: give both or neither")


@checked
@dataclass(frozen=True, eq=False)
class Data:
    """Numpy arrays, so that Ray's workers on one machine share them.

    anchors [N, ...]: inputs on which the function must stay; no labels are needed.
    held_out [M, ...]: inputs on which staying is judged.
    test_inputs [T, ...], test_labels [T]: labelled inputs for accuracies and attacks; both or neither.
    bounds: the least and greatest value of an input that an attack may use.
    ood_inputs [O, ...]: inputs of no class, which a network should be less sure of than of the test inputs.
    sets: further inputs [K, ...] by names of theirs, on which a path may be asked to keep the function, or be judged.
    tasks: what paths may learn, by names of theirs; the end of every path is judged on all that have test inputs.

    Arrays are kept in native byte order and C order, copied where they are not. Inputs have a dtype that the network
    takes; attacks need floats.

    Raises DataError for empty arrays, dtypes that torch has not, masks, NaN or infinity, inputs of different shapes or
    outside the bounds, labels that are no integers or below 0.
    """

    anchors: NDArray[np.generic]
    held_out: NDArray[np.generic]
    test_inputs: NDArray[np.generic] | None = None
    test_labels: NDArray[np.integer] | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    ood_inputs: NDArray[np.generic] | None = None
    sets: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("anchors", "held_out", "test_inputs", "test_labels", "ood_inputs"):
            object.__setattr__(self, name, normalised(name, getattr(self, name)))
        object.__setattr__(self, "sets", {name: normalised(f"set {name!r}", some) for name, some in self.sets.items()})
        if (self.test_inputs is None) != (self.test_labels is None):
            raise DataError("test_inputs and test_labels come together: give both or neither")
        low, high = (float(bound) + 0.0 for bound in self.bounds)  # 0, 0.0 and -0.0 are one bound
        object.__setattr__(self, "bounds", (low, high))
        if not low < high:
            raise DataError(f"bounds are a number and a greater one, (low, high); {self.bounds} was given")
        for name, inputs in self.inputs.items():
            self._check_inputs(name, inputs)
        if self.test_inputs is not None and self.test_labels is not None:
            check_labels("test_labels", self.test_inputs, self.test_labels)
        for name, task in self.tasks.items():
            check_labels(f"labels of task {name!r}", task.inputs, task.labels)
            if task.test_inputs is not None and task.test_labels is not None:
                check_labels(f"test_labels of task {name!r}", task.test_inputs, task.test_labels)

    @property
    def inputs(self) -> dict[str, NDArray[np.generic]]:
        """All inputs that there are, by what they are called."""
        named = {
            **{name: getattr(self, name) for name in ("anchors", "held_out", "test_inputs", "ood_inputs")},
            **{f"set {name!r}": inputs for name, inputs in self.sets.items()},
            **{f"inputs of task {name!r}": task.inputs for name, task in self.tasks.items()},
            **{f"test_inputs of task {name!r}": task.test_inputs for name, task in self.tasks.items()},
        }
        return {name: inputs for name, inputs in named.items() if inputs is not None}

    @property
    def labels(self) -> dict[str, NDArray[np.integer]]:
        """All labels that there are, by what they are called."""
        named = {
            "test_labels": self.test_labels,
            **{f"labels of task {name!r}": task.labels for name, task in self.tasks.items()},
            **{f"test_labels of task {name!r}": task.test_labels for name, task in self.tasks.items()},
        }
        return {name: labels for name, labels in named.items() if labels is not None}

    def _check_inputs(self, name: str, inputs: Any) -> None:
        if not isinstance(inputs, np.ndarray) or inputs.ndim < 2 or inputs.size == 0:
            found = f"shape {inputs.shape}" if isinstance(inputs, np.ndarray) else f"a {type(inputs).__name__}"
            raise DataError(f"{name} is a numpy array of one or more inputs, [N, ...]; this has {found}")
        if inputs.shape[1:] != self.anchors.shape[1:]:
            raise DataError(
                f"all inputs have one shape; anchors have {self.anchors.shape[1:]}, {name} {inputs.shape[1:]}"
            )
        if np.issubdtype(inputs.dtype, np.floating):
            broken = ~np.isfinite(inputs).reshape(len(inputs), -1).all(1)
            if broken.any():
                raise DataError(
                    f"{int(broken.sum())} of {len(inputs)} inputs in {name} hold NaN or infinity, the first at index "
                    f"{int(broken.argmax())}: remove or repair them"
                )
        low, high = self.bounds
        if name.startswith("test_inputs") and (inputs.min() < low or inputs.max() > high):
            raise DataError(
                f"{name} lie in {inputs.min():.4g}..{inputs.max():.4g}, outside the bounds "
                f"{low}..{high}: scale them, or say bounds=(low, high)"
            )

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that tell this data from any other."""
        hashing = hashlib.sha256(f"bounds {self.bounds}".encode())
        for name, array in sorted({**self.inputs, **self.labels}.items()):
            hashing.update(f"{name} {array.dtype.str} {array.shape}".encode())
            hashing.update(array.data)
        return hashing.hexdigest()[:16]
