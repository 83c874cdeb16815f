"""The inputs and labels that a study works on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fipray.errors import DataError


@dataclass(frozen=True, eq=False)
class Data:
    """Numpy arrays, so that Ray's workers on one machine share them.

    anchors [N, ...]: inputs on which the function must stay; no labels are needed.
    held_out [M, ...]: inputs on which staying is judged.
    test_inputs [T, ...], test_labels [T]: labelled inputs for accuracies and attacks; both or neither.
    bounds: the least and greatest value of an input that an attack may use.
    outside_inputs [O, ...]: inputs of no class, which a network should be less sure of than of the test inputs.

    Raises DataError for empty arrays, NaN or infinity, inputs of different shapes or outside the bounds, labels that
    are no integers or below 0.
    """

    anchors: NDArray[np.generic]
    held_out: NDArray[np.generic]
    test_inputs: NDArray[np.generic] | None = None
    test_labels: NDArray[np.integer] | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    outside_inputs: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        if (self.test_inputs is None) != (self.test_labels is None):
            raise DataError("test_inputs and test_labels come together: give both or neither")
        for name in ("anchors", "held_out", "test_inputs", "outside_inputs"):
            self._check_inputs(name)
        if self.test_inputs is not None and self.test_labels is not None:
            labels = self.test_labels
            if labels.shape != (len(self.test_inputs),):
                raise DataError(
                    f"{len(self.test_inputs)} test inputs need as many labels; test_labels has shape {labels.shape}"
                )
            if not np.issubdtype(labels.dtype, np.integer):
                raise DataError(f"labels are integers, 0 for the first class; test_labels has dtype {labels.dtype}")
            if labels.min() < 0:
                raise DataError(f"labels begin with 0; test_labels holds {labels.min()}")

    def _check_inputs(self, name: str) -> None:
        inputs = getattr(self, name)
        if inputs is None:
            return
        if not isinstance(inputs, np.ndarray) or inputs.ndim < 2 or len(inputs) == 0:
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
        if name == "test_inputs" and (inputs.min() < low or inputs.max() > high):
            raise DataError(
                f"test_inputs lie in {inputs.min():.4g}..{inputs.max():.4g}, outside the bounds "
                f"{low}..{high}: scale them, or say bounds=(low, high)"
            )

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that tell this data from any other."""
        hashing = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                hashing.update(f"{field.name} {value.dtype.str} {value.shape}".encode())
                hashing.update(np.ascontiguousarray(value).data)
            elif field.name != "outside_inputs":  # came later; data without any keeps its digest
                hashing.update(f"{field.name} {value}".encode())
        return hashing.hexdigest()[:16]
