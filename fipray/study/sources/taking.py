"""Anchors, held-out and test inputs out of what was read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fipray.errors import DataError
from fipray.networks import Layout
from fipray.study.sources.columns import Columns
from fipray.study.sources.conversion import parts_of
from fipray.study.sources.examples import Examples, Source, Transform
from fipray.study.sources.labels import classes_of
from fipray.study.sources.preparing import Array, Normalisation, bounds_of, prepared
from fipray.study.sources.reading import Reader

_MOST_HELD_OUT = 1000


@dataclass(frozen=True, eq=False)
class Plan:
    """How a source is divided, see `Data.of`.

    Args:
        test: labelled source for tests; None to split a part off.
        num_held_out: number of held-out inputs; None for a fifth, at most 1000.
        limit: most examples to take of a source; None for all.
        transform: applied to each single input; None for none.
        normalisation: normalisation that the source applied; None for none.
        seed: of the shuffle, and of random transforms in the source.
    """

    test: Any = None
    num_held_out: int | None = None
    limit: int | None = None
    transform: Transform | None = None
    normalisation: Normalisation | None = None
    seed: int = 0


def taken(source: Any, plan: Plan) -> dict[str, Any]:
    """Take anchors, held-out and test inputs from a source.

    Args:
        source: see `Data.of`.
        plan: how it is divided.

    Returns:
        Arguments of `Data`.

    Raises:
        DataError: see `Data.of`.
    """
    read, test, notes = _both(source, plan)
    return _divided(read, test, plan, notes)


def taken_task(source: Any, plan: Plan) -> dict[str, Any]:
    """Take training and test examples of a task from a source.

    Args:
        source: labelled source, see `Task.of`.
        plan: how it is read.

    Returns:
        Arguments of `Task`.

    Raises:
        DataError: see `Task.of`.
    """
    read, test, _ = _both(source, plan)
    if read.labels is None:
        raise DataError("the source has no labels that are classes, which a task needs: give them")
    if test is not None:
        _check_alike(read, test)
    layout = _layout(read) if len(read.parts) > 1 else None
    return {
        "inputs": _packed(layout, read),
        "labels": read.labels,
        "test_inputs": None if test is None else _packed(layout, test),
        "test_labels": None if test is None else test.labels,
        "layout": layout,
    }


def packed_inputs(what: str, value: Any) -> tuple[Array, Layout | None]:
    """Pack inputs that are given by keyword or place.

    Args:
        what: description of the inputs, for messages.
        value: mapping or tuple of arrays or tensors [N, ...].

    Returns:
        Rows [N, D] and their layout; the array itself and None where there is only one.

    Raises:
        DataError: for no inputs, values that are not numbers, and different numbers of examples.
    """
    parts, by_place = parts_of(what, value)
    if not parts or any(not array.ndim for array in parts.values()):
        raise DataError(f"{what} must be one or more arrays [N, ...], by keyword or in a tuple")
    packed, layout, _ = packed_examples(what, Examples(parts, None, by_place))
    return packed, layout


def packed_examples(what: str, examples: Examples) -> tuple[Array, Layout | None, list[str]]:
    """Prepare inputs of examples for networks, several inputs packed in one row.

    Args:
        what: description of the inputs, for messages.
        examples: examples, whose labels are not used. What is done depends on their shapes and dtypes alone.

    Returns:
        Rows [N, ...], their layout (None where there is only one input), and notes on what was done.

    Raises:
        DataError: for images whose channels are ambiguous.
    """
    notes: list[str] = []
    ready = _ready(what, replace(examples, labels=None), Plan(), notes)
    layout = _layout(ready) if len(ready.parts) > 1 else None
    return _packed(layout, ready), layout, notes


def cuts(num: int, plan: Plan, *, splits_test: bool) -> tuple[slice, slice, slice]:
    """Divide shuffled examples into anchors, held-out and test inputs.

    Args:
        num: number of examples.
        plan: with the number of held-out inputs.
        splits_test: whether test inputs are split off.

    Returns:
        Slices of the three; that of test inputs is empty where none are split off.

    Raises:
        DataError: for too few examples.
    """
    num_held_out = plan.num_held_out or min(_MOST_HELD_OUT, max(1, num // 5))
    num_tests = num_held_out if splits_test else 0
    needed = num_held_out + num_tests + 1
    if num < needed:
        raise DataError(
            f"the source has {num} examples (limit={plan.limit}), too few for anchors, {num_held_out} held-out inputs"
            + (f" and {num_held_out} test inputs" if splits_test else "")
            + f": give at least {needed}, or a smaller num_held_out"
        )
    first = num - num_held_out
    return slice(0, first - num_tests), slice(first, num), slice(first - num_tests, first)


def _both(source: Any, plan: Plan) -> tuple[Examples, Examples | None, list[str]]:
    """Training and test examples of a source, and notes on what was done."""
    for name, number in (("limit", plan.limit), ("num_held_out", plan.num_held_out)):
        if number is not None and number < 1:
            raise DataError(f"{name} must be at least 1, got {number}")
    reader = Reader("the source", plan.transform, plan.limit)
    opened = reader.open(source)
    notes, tests = list(opened.notes), opened.test
    if plan.test is not None:
        # Columns are named once, also for the test source.
        columns = source if isinstance(source, Columns) else None
        tested = replace(reader, name="the test source").open(plan.test, columns)
        # A file or folder given as a test source may hold both parts itself.
        tests = tested.test or tested.training
        notes += tested.notes
    _check_classes(opened.training, tests)
    read = _read(opened.training, plan, shuffled=True)
    test = None if tests is None else _read(tests, plan, shuffled=False)
    return _ready("the inputs", read, plan, notes), _tested(test, plan, notes), notes


def _tested(test: Examples | None, plan: Plan, notes: list[str]) -> Examples | None:
    if test is None:
        return None
    ready = _ready("the test inputs", test, plan, notes)
    if ready.labels is None:
        raise DataError("the test source has no labels that are classes, which accuracy and attacks need: give them")
    return ready


def _check_classes(training: Source, test: Source | None) -> None:
    one, other = training.classes, None if test is None else test.classes
    if one is not None and other is not None and list(one) != list(other):
        differing = sorted({str(name) for name in one} ^ {str(name) for name in other})
        raise DataError(
            f"the source and the test source number their classes differently: {len(one)} and {len(other)} classes, "
            f"differing in {', '.join(differing[:5]) or 'their order'}"
        )


def _read(source: Source, plan: Plan, *, shuffled: bool) -> Examples:
    if not len(source):
        raise DataError("the source is empty: it has no examples")
    # The same draw for all sources, so that `limit` takes the same examples of a test set in every study.
    order = np.random.default_rng(plan.seed).permutation(len(source))[: plan.limit]
    return source.read((order if shuffled else np.sort(order)).tolist(), plan.seed)


def _ready(name: str, examples: Examples, plan: Plan, notes: list[str]) -> Examples:
    """Examples with inputs as networks take them and labels as classes."""
    parts: dict[str, Array] = {}
    alone = len(examples.parts) == 1
    for part, array in examples.parts.items():
        called = f"{name} {part!r}" if part else name
        parts[part], said = prepared(called, array, examples.channels, plan.normalisation, alone=alone)
        notes += said
    labels = None
    if examples.labels is not None:
        labels, note = classes_of(f"labels of {name}", examples.labels)
        notes += [note] if note else []
    notes += examples.notes
    return replace(examples, parts=parts, labels=labels)


def _divided(read: Examples, test: Examples | None, plan: Plan, notes: list[str]) -> dict[str, Any]:
    num = len(read)
    splits_test = test is None and read.labels is not None
    anchors, held_out, tests = cuts(num, plan, splits_test=splits_test)
    if splits_test:
        test = read[tests]
        notes.append(f"no test source was given: {len(test)} labelled examples of the source are the test inputs")
    made = {"anchors": read[anchors], "held_out": read[held_out], "test": test}
    return _fields({name: part for name, part in made.items() if part is not None}, notes)


def _fields(made: dict[str, Examples], notes: list[str]) -> dict[str, Any]:
    first = made["anchors"]
    for examples in made.values():
        _check_alike(first, examples)
    layout = _layout(first) if len(first.parts) > 1 else None
    arrays = {name: _packed(layout, examples) for name, examples in made.items()}
    bounds, note = bounds_of(list(arrays.values()))
    notes += [note] if note and arrays["anchors"].dtype.kind == "f" and layout is None else []
    return {
        "anchors": arrays["anchors"],
        "held_out": arrays["held_out"],
        "test_inputs": arrays.get("test"),
        "test_labels": made["test"].labels if "test" in made else None,
        "bounds": bounds,
        "anchor_labels": first.labels,
        "held_out_labels": made["held_out"].labels,
        "layout": layout,
        "notes": tuple(dict.fromkeys(notes)),
    }


def _check_alike(one: Examples, other: Examples) -> None:
    kinds = [{name: (array.shape[1:], array.dtype.name) for name, array in part.parts.items()} for part in (one, other)]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"the test source has other inputs than the source: {_told(kinds[1])}, and the source has {_told(kinds[0])}"
        )


def _told(kinds: dict[str, tuple[Any, str]]) -> str:
    return ", ".join(
        f"{name or 'inputs'} {dtype} [N{''.join(f', {n}' for n in shape)}]" for name, (shape, dtype) in kinds.items()
    )


def _layout(examples: Examples) -> Layout:
    return Layout.of(_tensors(examples))


def _tensors(examples: Examples) -> Any:
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in examples.parts.items()}
    return tuple(tensors.values()) if examples.by_place else tensors


def _packed(layout: Layout | None, examples: Examples) -> Array:
    if layout is None:
        return next(iter(examples.parts.values()))
    packed: Array = layout.pack(_tensors(examples)).numpy()
    return packed
