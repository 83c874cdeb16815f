"""Names of inputs and labels among the columns of a source."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fipray.border import checked
from fipray.errors import DataError

# In the order of preference. Several inputs that belong together come first: token IDs and what goes with them.
_TOGETHER = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "pixel_mask", "inputs_embeds", "bbox")
_INPUTS = ("inputs", "input", "data", "x", "X", "images", "image", "img", "features", "arr_0")
_LABELS = ("labels", "label", "targets", "target", "y", "Y", "classes", "class", "fine_label", "arr_1")
_TRAINING, _TEST = ("train", "training"), ("test", "val", "valid", "validation", "eval")


@checked
@dataclass(frozen=True, eq=False)
class Columns:
    """A source whose columns are named, where the names cannot be found.

    Args:
        source: mapping of arrays, file of arrays, or data set whose examples are dictionaries.
        inputs: names of the columns that are inputs; several are given to the network by keyword.
        labels: name of the column of classes; empty for none.
    """

    source: Any
    inputs: str | tuple[str, ...]
    labels: str = ""

    @property
    def names(self) -> tuple[tuple[str, ...], str]:
        """Names of inputs, and of the labels."""
        return ((self.inputs,) if isinstance(self.inputs, str) else self.inputs), self.labels


def chosen(columns: Collection[str], named: Columns | None) -> tuple[tuple[str, ...], str]:
    """Choose the columns of inputs and labels.

    Args:
        columns: names of all columns.
        named: names that the user gave; None to find them.

    Returns:
        Names of inputs, and of the labels (empty for none).

    Raises:
        DataError: for unknown names, and if inputs cannot be found.
    """
    if named is not None:
        inputs, labels = named.names
        if unknown := [name for name in (*inputs, labels) if name and name not in columns]:
            raise DataError(f"there is no column {unknown[0]!r}; the columns are: {_listed(columns)}")
        return inputs, labels
    labels = label_among(columns)
    inputs = tuple(name for name in _TOGETHER if name in columns)
    if not inputs:
        rest = [name for name in columns if name != labels]
        inputs = tuple(name for name in _INPUTS if name in rest)[:1] or tuple(rest if len(rest) == 1 else ())
    if not inputs:
        raise DataError(
            f"which of the columns {_listed(columns)} are inputs is not known: name them by "
            'fipray.study.Columns(source, inputs="...", labels="...")'
        )
    return inputs, labels


def label_among(columns: Collection[str]) -> str:
    """Find the column of labels by its name.

    Args:
        columns: names of all columns.

    Returns:
        Its name; empty if none has a usual one.
    """
    return next((name for name in _LABELS if name in columns), "")


def splits(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Divide names of arrays such as `train_images`, `x_test` into those of a training and a test part.

    Args:
        names: names of arrays.

    Returns:
        Full names by what is left of them without the part, such as {"images": "train_images"}: of the training part,
        which has all names without a part, and of the test part.
    """
    training: dict[str, str] = {}
    tests: dict[str, dict[str, str]] = {}
    for name in names:
        words = re.split(r"[_.\-/ ]", name)
        part = next((word for word in words if word.lower() in (*_TRAINING, *_TEST)), "")
        rest = "_".join(word for word in words if word != part)
        (tests.setdefault(part.lower(), {}) if part.lower() in _TEST else training)[rest or name] = name
    return training, next((tests[part] for part in _TEST if part in tests), {})


def split_names(names: Sequence[str]) -> tuple[str, str]:
    """Name the training and the test split among the splits of a data set.

    Args:
        names: names of splits.

    Returns:
        Name of the training split and of the test split, each empty if there is none.
    """
    return tuple(next((name for word in part for name in names if name == word), "") for part in (_TRAINING, _TEST))  # type: ignore[return-value]


def is_dataset(value: Any) -> bool:
    """Recognise a data set of Hugging Face, without importing their library.

    Args:
        value: anything.

    Returns:
        True for an object with columns, features and examples by index.
    """
    return hasattr(value, "column_names") and hasattr(value, "features") and hasattr(value, "__getitem__")


def arrays_in(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a mapping that are arrays.

    Args:
        mapping: such as a Bunch of scikit-learn, which also has texts and lists of names.

    Returns:
        Entries with a shape, of one dimension or more.
    """
    return {str(name): value for name, value in mapping.items() if len(getattr(value, "shape", ())) > 0}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "(none)"
