"""Anchors, held-out and test inputs out of referenced data."""

from __future__ import annotations

from typing import Any

import numpy as np

from fipray.errors import DataError
from fipray.study.referenced.array import ReferencedArray
from fipray.study.referenced.opening import opened
from fipray.study.referenced.reference import DataRef
from fipray.study.sources import Plan
from fipray.study.sources.preparing import bounds_of
from fipray.study.sources.taking import cuts


def referenced(ref: DataRef, plan: Plan) -> dict[str, Any]:
    """Divide referenced data as `Data.of` divides a source of the same examples.

    Args:
        ref: reference to the data.
        plan: how it is divided; only `num_held_out`, `limit` and `seed`.

    Returns:
        Arguments of `Data`.

    Raises:
        DataError: for other settings of the plan, too few examples, test inputs without labels, and parts that differ.
    """
    _check_plan(plan)
    sources = opened(ref)
    order = _order(ref, "train", plan)
    notes = list(sources["train"].read(order[:1].tolist())[2])
    is_labelled = sources["train"].labels(order[:1], reads=False) is not None
    made: dict[str, tuple[str, Any]] = {}
    splits_test = "test" not in sources and is_labelled
    if "held_out" in sources:
        if plan.num_held_out is not None:
            raise DataError(
                f"{ref.function} has a part 'held_out', so that num_held_out={plan.num_held_out} has nothing to split "
                "off: leave it out, or let the function leave out the part"
            )
        made = {"anchors": ("train", order), "held_out": ("held_out", np.sort(_order(ref, "held_out", plan)))}
    else:
        anchors, held_out, tests = cuts(len(order), plan, splits_test=splits_test)
        made = {"anchors": ("train", order[anchors]), "held_out": ("train", order[held_out])}
        if splits_test:
            made["test_inputs"] = "train", order[tests]
            count = len(order[tests])
            notes.append(f"no test source was given: {count} labelled examples of the source are the test inputs")
    for name, part in (("test_inputs", "test"), ("ood_inputs", "ood")):
        if part in sources:
            made[name] = part, np.sort(_order(ref, part, plan))
    arrays = {name: ReferencedArray.of(ref, *place) for name, place in made.items()}
    first = arrays["anchors"]
    for name, array in arrays.items():
        if (array.shape[1:], array.dtype) != (first.shape[1:], first.dtype):
            raise DataError(
                f"{name} of {ref.function} have shape {array.shape[1:]} in {array.dtype}, and the anchors "
                f"{first.shape[1:]} in {first.dtype}: transform all parts to one shape and dtype"
            )
    bounds, note = bounds_of([array.sample for array in arrays.values()])
    if note and first.dtype.kind == "f" and first.layout is None:
        notes.append(f"{note}, of {sum(len(array.sample) for array in arrays.values())} examples that were read")
    labels = {
        # Of anchors none is needed, so that they are not read for their labels.
        f"{name}_labels": sources[part].labels(indices, reads=name != "anchors")
        for name, (part, indices) in made.items()
        if name != "ood_inputs"
    }
    if "test_inputs" in arrays and labels["test_inputs_labels"] is None:
        raise DataError(f"the part 'test' of {ref.function} has no labels that are classes: give (input, label)")
    notes.append(f"inputs are read by reference, {ref.function} in version {ref.version!r}")
    return {
        **arrays,
        "test_labels": labels.get("test_inputs_labels"),
        "bounds": bounds,
        "anchor_labels": labels["anchors_labels"],
        "held_out_labels": labels["held_out_labels"],
        "layout": first.layout,
        "notes": tuple(dict.fromkeys(notes)),
    }


def referenced_task(ref: DataRef, plan: Plan) -> dict[str, Any]:
    """Take training and test examples of a task from referenced data.

    Args:
        ref: reference to the data, with the parts "train" and, if accuracy is to be measured, "test".
        plan: how it is read; only `limit` and `seed`.

    Returns:
        Arguments of `Task`.

    Raises:
        DataError: for other settings of the plan, and for examples without labels.
    """
    _check_plan(plan)
    made: dict[str, Any] = {}
    for part, inputs, named in (("train", "inputs", "labels"), ("test", "test_inputs", "test_labels")):
        if part not in opened(ref):
            continue
        order = _order(ref, part, plan)
        order = order if part == "train" else np.sort(order)
        labels = opened(ref)[part].labels(order, reads=True)
        if labels is None:
            raise DataError(f"{part!r} of {ref.function} has no labels that are classes, which a task needs: give them")
        made |= {inputs: ReferencedArray.of(ref, part, order), named: labels}
    return made | {"layout": made["inputs"].layout}


def _order(ref: DataRef, part: str, plan: Plan) -> Any:
    """Shuffle the indices of the examples as `Data.of` shuffles those of any source."""
    return np.random.default_rng(plan.seed).permutation(len(opened(ref)[part]))[: plan.limit]


def _check_plan(plan: Plan) -> None:
    for name, value in (("test", plan.test), ("transform", plan.transform), ("mean and std", plan.normalisation)):
        if value is not None:
            raise DataError(
                f"{name} cannot be given with a DataRef, as every process opens the data by its function alone: let "
                'the function return {"train": ..., "test": ...}, with inputs as the network takes them'
            )
    for name, number in (("limit", plan.limit), ("num_held_out", plan.num_held_out)):
        if number is not None and number < 1:
            raise DataError(f"{name} must be at least 1, got {number}")
