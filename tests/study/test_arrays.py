"""Arrays of every memory layout and dtype: accepted with equal values, or refused with a message."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from tests.studies import data, module

GOOD = data()
INPUTS, LABELS = GOOD.test_inputs, GOOD.test_labels
assert INPUTS is not None
assert LABELS is not None


def mapped(array: np.ndarray, folder) -> np.ndarray:
    np.save(folder / "array.npy", array)
    return np.load(folder / "array.npy", mmap_mode="r")


def read_only(array: np.ndarray, _=None) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "big-endian": lambda array, _: array.astype(array.dtype.newbyteorder(">")),
    "negative strides": lambda array, _: np.ascontiguousarray(array[::-1])[::-1],
    "every other of a longer one": lambda array, _: np.repeat(array, 2, axis=0)[::2],
    "Fortran order": lambda array, _: np.asfortranarray(array),
    "read-only": read_only,
    "memory-mapped": mapped,
    "matrix": lambda array, _: np.asmatrix(array) if array.ndim == 2 else array,
    "mask of nothing filled": lambda array, _: np.ma.masked_array(array).filled(),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_memory_layout_of_arrays_changes_nothing(layout, tmp_path):
    arrays = {"anchors": GOOD.anchors, "held_out": GOOD.held_out, "test_inputs": INPUTS, "test_labels": LABELS}
    folders = {name: tmp_path / name for name in arrays}
    for folder in folders.values():
        folder.mkdir()
    made = fip.Data(**{name: layout(array, folders[name]) for name, array in arrays.items()})
    assert made.digest == fip.Data(**arrays).digest
    for name, array in arrays.items():
        kept = getattr(made, name)
        assert type(kept) is np.ndarray
        assert kept.flags.c_contiguous
        assert kept.dtype.isnative
        np.testing.assert_array_equal(kept, array)


def test_a_study_of_read_only_arrays_is_made_without_a_warning():
    arrays = [read_only(array) for array in (GOOD.anchors, GOOD.held_out, INPUTS, LABELS)]
    path = fip.PathSpec("one", fip.objectives.GradientDiversity(), stepper=fip.steppers.FirstOrder(beta=0.1))
    fip.Study("s", module(), fip.Data(*arrays), (path,), evaluation=fip.Evaluation(fip.ThreatModel("linf", 0.1)))


@pytest.mark.parametrize("dtype", [">i2", "<i4", "u1", "u2", "u4", "u8", "i1", "i8"])
def test_integer_labels_of_every_dtype_give_the_accuracy_that_they_have(dtype, tmp_path):
    path = fip.PathSpec(
        "one", fip.objectives.GradientDiversity(), stepper=fip.steppers.FirstOrder(beta=0.1), num_steps=1, batch_size=50
    )
    given = fip.Data(GOOD.anchors, GOOD.held_out, INPUTS[::-1], LABELS[::-1].astype(dtype))
    LocalRunner().run(fip.Study("s", module(), given, (path,)), tmp_path)
    first = analysis.load(tmp_path).points.sort_values("step")["clean_accuracy"].iloc[0]
    with torch.no_grad():
        right = module()(torch.from_numpy(INPUTS)).argmax(1).numpy() == LABELS
    assert first == right.mean()


def artifacts_of(arrays: dict) -> fip.Data:
    tasks = {name: fip.Task(*each) for name, each in arrays.get("tasks", {}).items()}
    return fip.Data(**arrays | {"tasks": tasks})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"anchors": np.ma.masked_array(GOOD.anchors, GOOD.anchors > 0.9)}, "anchors is a masked array"),
        ({"anchors": GOOD.anchors.astype(object)}, "anchors has dtype object, which torch does not have"),
        ({"held_out": GOOD.held_out.astype(str)}, "which torch does not have"),
        (
            {"held_out": GOOD.held_out.astype(np.longdouble)},
            "which torch does not have",
        ),
        ({"anchors": GOOD.anchors.astype(complex)}, "give real and imaginary parts as separate numbers"),
        ({"anchors": GOOD.anchors.tolist()}, "anchors is a list; expected a numpy array"),
        ({"anchors": GOOD.anchors[:, :0]}, "but has shape (150, 0)"),
        ({"test_labels": LABELS.tolist()}, "is a list; expected a numpy array of integers"),
        ({"test_labels": torch.from_numpy(LABELS)}, "is an int64 tensor [100]; expected a numpy array of integers"),
        ({"test_labels": LABELS.astype(float)}, "is a float64 numpy array [100]; expected a numpy array of integers"),
        ({"test_labels": LABELS > 0}, "is a bool numpy array [100]; expected a numpy array of integers"),
        ({"test_labels": LABELS.astype(str)}, "is a <U21 numpy array [100]; expected a numpy array of integers"),
        ({"test_labels": np.eye(3, dtype=int)[LABELS]}, "for one-hot rows give .argmax(1)"),
        ({"bounds": (1.0, 0.0)}, "bounds must be (low, high) with low < high"),
        ({"sets": {"some": np.array([["a"]])}}, "set 'some' has dtype"),
        ({"tasks": {"t": (INPUTS.astype(object), LABELS)}}, "inputs of a task has dtype object"),
    ],
)
def test_arrays_without_a_meaning_are_refused(changes, sentence):
    arrays = {"anchors": GOOD.anchors, "held_out": GOOD.held_out, "test_inputs": INPUTS, "test_labels": LABELS}
    with pytest.raises(fip.errors.UsageError) as refused:
        artifacts_of(arrays | changes)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_floats_of_another_dtype_than_the_weights_are_refused_with_the_remedy(dtype):
    with pytest.raises(fip.errors.DataError, match=r"held_out\.astype\(np\.float32\)"):
        fip.Study(
            "s",
            module(),
            fip.Data(GOOD.anchors, GOOD.held_out.astype(dtype)),
            (fip.PathSpec("p", fip.objectives.GradientDiversity()),),
        )
