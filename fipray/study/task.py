"""Labelled examples of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fipray.border import checked
from fipray.errors import DataError
from fipray.networks import Layout
from fipray.study.normalised import normalised, shown
from fipray.study.referenced import DataRef, referenced_task
from fipray.study.sources import Normalisation, Plan, packed_inputs, taken_task


@checked
@dataclass(frozen=True, eq=False)
class Task:
    """Labelled examples of a task that paths can learn.

    Args:
        inputs: training inputs, an array [N, ...]; several inputs, such as token IDs and attention mask, as a
            dictionary of arrays or tensors by keyword or a tuple of them, which are packed in rows [N, D].
        labels: their classes [N], integers from 0.
        test_inputs: inputs [T, ...] on which accuracy on the task is measured, in the form of `inputs`; None measures
            none.
        test_labels: their classes [T].
        layout: positions of several inputs in each row; it follows from a dictionary or tuple. `Data` has the same
            layout, in which the order of keywords may differ.

    Raises:
        DataError: for arrays that torch has no dtype for, test inputs without labels or the reverse, and test inputs
            of another layout.
    """

    inputs: Any
    labels: NDArray[np.integer]
    test_inputs: Any = None
    test_labels: NDArray[np.integer] | None = None
    layout: Layout | None = None

    def __post_init__(self) -> None:
        if (self.test_inputs is None) != (self.test_labels is None):
            raise DataError("test_inputs and test_labels of a task must be given together: give both or neither")
        layout = self.layout
        for name in ("inputs", "test_inputs"):
            if isinstance(given := getattr(self, name), (Mapping, tuple)):
                packed, found = packed_inputs(f"{name} of a task", given)
                if name == "inputs":
                    layout = found
                object.__setattr__(self, name, _arranged(packed, found, layout, "its test inputs", "its inputs"))
        object.__setattr__(self, "layout", layout)
        for name in ("inputs", "labels", "test_inputs", "test_labels"):
            object.__setattr__(self, name, normalised(f"{name} of a task", getattr(self, name)))

    def __repr__(self) -> str:
        tests = "no test inputs" if self.test_inputs is None else f"test_inputs {shown(self.test_inputs)}"
        return f"Task: inputs {shown(self.inputs)} in {int(self.labels.max()) + 1} classes, {tests}"

    @classmethod
    @checked
    def of(
        cls,
        source: Any,
        *,
        test: Any = None,
        limit: int | None = None,
        transform: Callable[[Any], Any] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        seed: int = 0,
    ) -> Task:
        """Take a task from what there is, as `Data.of` takes data.

        All examples of the source are learned; only its own test part, or `test`, is for tests.

        Args:
            source: labelled source, as of `Data.of`, or a `DataRef`. A `Task` is returned as it is.
            test: labelled source of test inputs; None for the source's own test part, if it has one.
            limit: most examples to take of each source; None for all.
            transform: function applied to each input; None for none.
            mean: mean of each channel by which the source normalises its inputs, see `Data.of`.
            std: standard deviation of each channel; given together with `mean`.
            seed: of the shuffle, and of random transforms in the source.

        Returns:
            The task.

        Raises:
            DataError: for a source without labels, and as `Data.of`.
        """
        if isinstance(source, cls):
            if (test, limit, transform, mean, std, seed) != (*[None] * 5, 0):
                raise DataError("the source is a Task already: give no other arguments")
            return source
        plan = Plan(test, None, limit, transform, Normalisation.of(mean, std), seed)
        return cls(**(referenced_task if isinstance(source, DataRef) else taken_task)(source, plan))

    def arranged(self, layout: Layout | None, name: str) -> Task:
        """Arrange several inputs as the data has them.

        Args:
            layout: layout of the data; None for one input.
            name: name of the task, for messages.

        Returns:
            The task, with the inputs of each row in the order of the layout.

        Raises:
            DataError: for other inputs than those of the layout.
        """
        if self.layout is None or self.layout == layout:
            return self
        what, own = f"task {name!r}", self.layout
        inputs = _arranged(self.inputs, own, layout, what, "the data")
        tests = None if self.test_inputs is None else _arranged(self.test_inputs, own, layout, what, "the data")
        return replace(self, inputs=inputs, test_inputs=tests, layout=layout)


def _arranged(packed: Any, own: Layout | None, asked: Layout | None, what: str, whole: str) -> Any:
    """Rows packed by one layout in the order of another."""
    if own == asked:
        return packed
    kinds = [None if one is None else {part.name: part for part in one.parts} for one in (own, asked)]
    if own is None or asked is None or own.by_keyword != asked.by_keyword or kinds[0] != kinds[1]:
        raise DataError(
            f"{what} and {whole} must have the same inputs: {what} has {_told(own)}, and {whole} has {_told(asked)}; "
            "give the same names, shapes and dtypes, such as those of one tokenizer that pads to one length"
        )
    named = own.unpack(torch.from_numpy(np.ascontiguousarray(packed)))
    return asked.pack({part.name: named[part.name] for part in asked.parts}).numpy()


def _told(layout: Layout | None) -> str:
    if layout is None:
        return "one array"
    return ", ".join(f"{part.name} {part.dtype} [N{''.join(f', {n}' for n in part.shape)}]" for part in layout.parts)
