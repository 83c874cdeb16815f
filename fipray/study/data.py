"""Inputs and labels of a study."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fipray.border import checked
from fipray.errors import DataError, NetworkError
from fipray.networks import Layout, Packed
from fipray.paths.display import listing, table
from fipray.study.normalised import check_labels, normalised, shown
from fipray.study.referenced import Array, DataRef, ReferencedArray, extremes, referenced
from fipray.study.sources import Normalisation, Plan, taken
from fipray.study.task import Task

__all__ = ["Data", "Task"]

_KNOWN_LABELS = ("anchor_labels", "held_out_labels")


@checked
@dataclass(frozen=True, eq=False)
class Data:
    """Inputs and labels of a study, as numpy arrays, which Ray's workers on one machine share, or by reference.

    Inputs by reference (`DataRef`, `ReferencedArray`) are read when they are used, so that they need not fit in memory.
    Arrays are stored in native byte order and C order, and copied only where they are not. Inputs have a dtype that the
    network takes; attacks need floats.

    Args:
        anchors: inputs [N, ...] on which the function is kept. They need no labels.
        held_out: inputs [M, ...] on which the functional distance is reported.
        test_inputs: labelled inputs [T, ...] for accuracies and attacks; None for none.
        test_labels: their classes [T], integers from 0; given together with `test_inputs`.
        bounds: smallest and largest value of an input that an attack may use.
        ood_inputs: out-of-distribution inputs [O, ...], on which a network should be less confident than on the test
            inputs; None for none.
        sets: further inputs [K, ...] by name, which a path can name as its anchors or held-out inputs.
        tasks: tasks that paths can learn, by name. The end of every path is tested on all tasks with test inputs.
        anchor_labels: classes of the anchors [N], where they are known; None for none.
        held_out_labels: classes of the held-out inputs [M], by which recipes choose; None for none.
        layout: positions of several inputs, such as token IDs and attention mask, in each row [D] of all arrays; None
            for one input. A study packs its module accordingly, see `packed`.
        notes: what `Data.of` did to a source, as sentences. They do not change IDs.

    Raises:
        DataError: for empty arrays, dtypes that torch does not have, masked arrays, NaN or infinity, inputs of
            different shapes, test inputs outside the bounds, and labels that are not integers from 0.
    """

    anchors: Array
    held_out: Array
    test_inputs: Array | None = None
    test_labels: NDArray[np.integer] | None = None
    bounds: tuple[float, float] = (0.0, 1.0)
    ood_inputs: Array | None = None
    sets: Mapping[str, Array] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    anchor_labels: NDArray[np.integer] | None = None
    held_out_labels: NDArray[np.integer] | None = None
    layout: Layout | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("anchors", "held_out", "test_inputs", "test_labels", "ood_inputs", *_KNOWN_LABELS):
            object.__setattr__(self, name, normalised(name, getattr(self, name)))
        object.__setattr__(self, "sets", {name: normalised(f"set {name!r}", some) for name, some in self.sets.items()})
        tasks = {name: task.arranged(self.layout, name) for name, task in self.tasks.items()}
        object.__setattr__(self, "tasks", tasks)
        if (self.test_inputs is None) != (self.test_labels is None):
            raise DataError("test_inputs and test_labels must be given together: give both or neither")
        low, high = (float(bound) + 0.0 for bound in self.bounds)  # 0, 0.0 and -0.0 are one bound
        object.__setattr__(self, "bounds", (low, high))
        if not low < high:
            raise DataError(f"bounds must be (low, high) with low < high, got {self.bounds}")
        # Anchors may lie anywhere, but what attacks perturb is checked whenever it is read.
        if isinstance(self.test_inputs, ReferencedArray):
            object.__setattr__(self, "test_inputs", self.test_inputs.within(self.bounds))
        # Inputs before labels: `check_labels` counts inputs, and takes a minimum that an empty array does not have.
        for name, inputs in self.inputs.items():
            self._check_inputs(name, inputs)
        if self.test_inputs is not None and self.test_labels is not None:
            check_labels("test_labels", self.test_inputs, self.test_labels)
        for name, inputs in (("anchor_labels", self.anchors), ("held_out_labels", self.held_out)):
            if getattr(self, name) is not None:
                check_labels(name, inputs, getattr(self, name))
        for name, task in self.tasks.items():
            check_labels(f"labels of task {name!r}", task.inputs, task.labels)
            if task.test_inputs is not None and task.test_labels is not None:
                check_labels(f"test_labels of task {name!r}", task.test_inputs, task.test_labels)

    @classmethod
    @checked
    def of(
        cls,
        source: Any,
        *,
        test: Any = None,
        num_held_out: int | None = None,
        limit: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        seed: int = 0,
    ) -> Data:
        """Take data from what there is.

        A source is a torch Dataset or DataLoader, a data set of Hugging Face or Ray Data, a numpy array or
        tensor, a tuple (inputs, labels), a dictionary of arrays, a data frame, a Bunch of scikit-learn, a
        folder of images (one folder a class, or folders `train` and `val` or `test` of them), the path of an
        .npz or .npy file, or a `DataRef`, for data that does not fit in memory. `fipray.study.Columns` names
        columns that cannot be found. The order of a source must be the same each time, also of one of Ray Data
        (`preserve_order`). The inputs of a shuffled source become anchors, the last ones held-out inputs, and
        before these, where there are labels and no test source, test inputs.

        uint8 becomes 0..1 in float32, [N, H, W, C] becomes [N, C, H, W] where that is unambiguous, float64 of numpy
        becomes torch's default dtype, and one-hot rows become classes. The field `notes` tells what was done. Several
        inputs, such as token IDs and attention mask, are packed in one row, see `layout`. The bounds of attacks are
        0..1, or for inputs outside of it their smallest and largest value.

        Args:
            source: training source; its own test part is used where there is one. A `Data` is returned as it is.
            test: labelled source of test inputs; None to use a part of `source`.
            num_held_out: number of held-out inputs, and of test inputs that are split off; None for a fifth of the
                examples, at most 1000.
            limit: most examples to take of each source, drawn with the seed; of a stream the first ones; None for all.
            transform: function applied to each input, such as one of `torchvision.transforms`; None for none.
            mean: mean of each channel by which the source normalises its inputs; the normalisation is undone, so that
                inputs and epsilon are in pixels of 0..1. Give the network as `fipray.networks.Normalised`.
            std: standard deviation of each channel; given together with `mean`.
            seed: of the shuffle, and of random transforms in the source.

        Returns:
            The data, with the labels of anchors and held-out inputs where they are known.

        Raises:
            DataError: for no examples, or too few; examples of different shapes or dtypes; text; images whose channels
                are ambiguous; labels that are text or negative; and for anything that is no source.
        """
        if isinstance(source, cls):
            if (test, num_held_out, limit, transform, mean, std, seed) != (*[None] * 6, 0):
                raise DataError("the source is a Data, which is divided already: give no other arguments")
            return source
        plan = Plan(test, num_held_out, limit, transform, Normalisation.of(mean, std), seed)
        return cls(**(referenced if isinstance(source, DataRef) else taken)(source, plan))

    def packed(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that it takes the inputs as they are stored.

        Args:
            module: network that takes one input, or all inputs of the layout.

        Returns:
            The module itself; with a layout, `fipray.networks.Packed` around it, unless it is one already.

        Raises:
            NetworkError: for a module that is packed for another layout.
        """
        if self.layout is None or (isinstance(module, Packed) and module.layout == self.layout):
            return module
        if isinstance(module, Packed):
            raise NetworkError(
                f"the module is packed for {module.layout}, and the data has {self.layout}: give the module within, "
                "module.module"
            )
        return Packed(module, self.layout)

    @property
    def inputs(self) -> dict[str, Array]:
        """All inputs of the data, by name."""
        named = {
            **{name: getattr(self, name) for name in ("anchors", "held_out", "test_inputs", "ood_inputs")},
            **{f"set {name!r}": inputs for name, inputs in self.sets.items()},
            **{f"inputs of task {name!r}": task.inputs for name, task in self.tasks.items()},
            **{f"test_inputs of task {name!r}": task.test_inputs for name, task in self.tasks.items()},
        }
        return {name: inputs for name, inputs in named.items() if inputs is not None}

    @property
    def labels(self) -> dict[str, NDArray[np.integer]]:
        """All labels of the data, by name."""
        named = {
            **{name: getattr(self, name) for name in ("test_labels", *_KNOWN_LABELS)},
            **{f"labels of task {name!r}": task.labels for name, task in self.tasks.items()},
            **{f"test_labels of task {name!r}": task.test_labels for name, task in self.tasks.items()},
        }
        return {name: labels for name, labels in named.items() if labels is not None}

    def __repr__(self) -> str:
        return listing("Data", self._rows())

    def _repr_html_(self) -> str:
        return table("Data", self._rows())

    def _rows(self) -> dict[str, str]:
        labels = self.labels
        rows = {}
        for name, inputs in self.inputs.items():
            labelled = {
                "anchors": "anchor_labels",
                "held_out": "held_out_labels",
                "test_inputs": "test_labels",
            }.get(name, name.replace("test_inputs of", "test_labels of").replace("inputs of", "labels of"))
            has = f", {len(np.unique(labels[labelled]))} classes" if labelled in labels else ""
            rows[name] = f"{shown(inputs)}{has}"
        rows["bounds"] = "{:g}..{:g}".format(*self.bounds)
        return rows

    def _check_inputs(self, name: str, inputs: Any) -> None:
        is_array = isinstance(inputs, (np.ndarray, ReferencedArray))
        if not is_array or inputs.ndim < 2 or inputs.size == 0:
            found = f"shape {inputs.shape}" if is_array else f"a {type(inputs).__name__}"
            raise DataError(f"{name} must be a numpy array of one or more inputs, [N, ...], but has {found}")
        if self.layout is not None and inputs.shape[1:] != (self.layout.size,):
            raise DataError(
                f"the layout has rows of {self.layout.size} numbers, but {name} have shape {inputs.shape}: give "
                "layout.pack(inputs)"
            )
        if inputs.shape[1:] != self.anchors.shape[1:]:
            raise DataError(
                f"all inputs must have one shape, but anchors have {self.anchors.shape[1:]} and {name} "
                f"{inputs.shape[1:]}"
            )
        if isinstance(inputs, np.ndarray) and np.issubdtype(inputs.dtype, np.floating):
            broken = ~np.isfinite(inputs).reshape(len(inputs), -1).all(1)
            if broken.any():
                raise DataError(
                    f"{int(broken.sum())} of {len(inputs)} inputs in {name} contain NaN or infinity, the first at "
                    f"index {int(broken.argmax())}: remove or repair them"
                )
        low, high = self.bounds
        # Attacks perturb test inputs only; anchors may lie anywhere, such as random inputs around the data.
        if not name.startswith("test_inputs"):
            return
        least, greatest = extremes(inputs)
        if least < low or greatest > high:
            raise DataError(
                f"{name} lie in {least:.4g}..{greatest:.4g}, outside the bounds "
                f"{low}..{high}: rescale them, or give bounds=(low, high)"
            )

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of a SHA-256 of all arrays and the bounds; of inputs by reference, of the reference."""
        hashing = hashlib.sha256(f"bounds {self.bounds}".encode())
        if self.layout is not None:
            hashing.update(repr(self.layout).encode())
        # Sorted, so that the order in which sets and tasks were given does not change the digest.
        for name, array in sorted({**self.inputs, **self.labels}.items()):
            hashing.update(f"{name} {array.dtype.str} {array.shape}".encode())
            # The memory itself, without a copy: `normalised` has made it contiguous and of native byte order.
            hashing.update(array.digest.encode() if isinstance(array, ReferencedArray) else array.data)
        return hashing.hexdigest()[:16]
