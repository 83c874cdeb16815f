"""Examples by index: of arrays, and of data sets that return one example at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fipray.errors import DataError, FiprayError
from fipray.study.sources.columns import Columns, chosen
from fipray.study.sources.conversion import Parts, parts_of, stacked, to_array
from fipray.study.sources.labels import text_refused

Channels = Literal["first", "last", "unknown"]
Transform = Callable[[Any], Any]
_MISSING = object()
_LOCK = RLock()  # the global generators are of the process, and another thread may be reading ahead


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples that were read.

    Args:
        parts: inputs [N, ...] by name.
        labels: labels as they came [N, ...]; None for none.
        by_place: whether the names are places.
        channels: where images have their channels, as far as the source says.
        notes: what was done.
    """

    parts: Parts
    labels: NDArray[Any] | None
    by_place: bool = False
    channels: Channels = "unknown"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, chosen: slice) -> Examples:
        parts = {name: array[chosen] for name, array in self.parts.items()}
        labels = None if self.labels is None else self.labels[chosen]
        return Examples(parts, labels, self.by_place, self.channels, self.notes)


class Source(Protocol):
    """Examples by index."""

    @property
    def classes(self) -> Sequence[Any] | None:
        """Names of the classes in order; None where the source does not know them."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int], seed: int) -> Examples:
        """Read some examples.

        Args:
            indices: their indices, at least one.
            seed: of random transforms in the source.

        Returns:
            The examples in this order.

        Raises:
            DataError: for values that are not numbers, or of different shapes or dtypes.
        """
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Source of whole arrays.

    Args:
        name: description of the source, for messages.
        inputs: array or tensor [N, ...], or a mapping or tuple of them.
        labels: array or tensor [N, ...]; None for none.
        transform: applied to each example of a single input; None for none.
        classes: see `Source`.
    """

    name: str
    inputs: Any
    labels: Any = None
    transform: Transform | None = None
    classes: Sequence[Any] | None = None

    def __len__(self) -> int:
        parts, _ = parts_of(self.name, self.inputs)
        counts = {name: array.shape[0] if array.ndim else 0 for name, array in parts.items()}
        if self.labels is not None:
            counts["labels"] = len(self._labels)
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} of {name or 'inputs'}" for name, count in counts.items())
            raise DataError(f"{self.name} must have one number of inputs and labels, but has {told}")
        return next(iter(counts.values()), 0)

    @property
    def _labels(self) -> NDArray[Any]:
        if len(texts := np.asarray(self.labels)) and texts.dtype.kind in "OUS":
            raise text_refused(f"labels of {self.name}", texts.flat[0])
        return to_array(f"labels of {self.name}", self.labels)

    def read(self, indices: Sequence[int], seed: int) -> Examples:
        """See `Source`."""
        parts, by_place = parts_of(self.name, self.inputs)
        at = np.asarray(indices)
        labels = None if self.labels is None else self._labels[at]
        if self.transform is not None:
            given = self.inputs if isinstance(self.inputs, Tensor) else parts.get("")
            if given is None:
                raise DataError(f"{self.name} has several inputs, of which transform= cannot take one: transform them")
            items = [(given[index],) for index in indices]
            made = ItemSource(self.name, items, self.transform).read(range(len(items)), seed)
            return Examples(made.parts, labels, made.by_place, made.channels, made.notes)
        channels: Channels = (
            "first" if isinstance(self.inputs, Tensor) and self.inputs.is_floating_point() else "unknown"
        )
        return Examples({name: array[at] for name, array in parts.items()}, labels, by_place, channels)


@dataclass(frozen=True, eq=False)
class ItemSource:
    """Source of a data set that returns one example at a time.

    An example is an input, a tuple (input, label), a tuple of inputs and a label, or a dictionary.

    Args:
        name: description of the source, for messages.
        items: object with examples by index.
        transform: applied to each single input; None for none.
        columns: names of inputs and labels in dictionaries; None to find them.
        collate: function from a list of examples to a batch, as of a DataLoader; None to stack them.
        classes: see `Source`.
    """

    name: str
    items: Any
    transform: Transform | None = None
    columns: Columns | None = None
    collate: Callable[[list[Any]], Any] | None = None
    classes: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def read(self, indices: Sequence[int], seed: int) -> Examples:
        """See `Source`."""
        with _seeded(seed):
            once = self._parsed(indices[:1])
        with _seeded(seed + 1):
            again = self._parsed(indices[:1])
        same = all(np.array_equal(once[1][name], again[1][name]) for name in once[1])
        note = f"{self.name} transforms its inputs at random: drawn once, with seed {seed}"
        size = 64 if self.collate else 1
        starts = range(0, len(indices), size)
        with _seeded(seed):
            read = [self._parsed(indices[start : start + size]) for start in starts]
        return self._joined(read, [indices[start] for start in starts], () if same else (note,))

    def each(self, indices: Sequence[int], seeds: Sequence[int]) -> Examples:
        """Read examples, the random transforms of each with a seed of its own.

        Args:
            indices: their indices, at least one.
            seeds: a seed for each.

        Returns:
            The examples in this order; each depends on its own index and seed alone.

        Raises:
            DataError: see `Source.read`.
        """
        read = []
        with _seeded(0):
            for index, seed in zip(indices, seeds, strict=True):
                _seed(seed)
                read.append(self._parsed([index]))
        return self._joined(read, indices, ())

    def _joined(
        self,
        read: list[tuple[Any, Parts, bool, NDArray[Any] | None]],
        firsts: Sequence[int],
        notes: tuple[str, ...],
    ) -> Examples:
        batches = self.collate is not None
        value, parts, by_place, _ = read[0]
        found = {name: stacked(name or "the input", self._each(read, name), firsts, batches=batches) for name in parts}
        labels = [label for *_, label in read]
        has_labels = not any(label is None for label in labels)
        return Examples(
            found,
            stacked("the label", labels, firsts, batches=batches) if has_labels else None,  # type: ignore[arg-type]
            by_place,
            _channels(value),
            notes,
        )

    def _each(self, read: list[tuple[Any, Parts, bool, NDArray[Any] | None]], name: str) -> list[NDArray[Any]]:
        if any(name not in parts for _, parts, *_ in read):
            raise DataError(f"not all examples of {self.name} have the input {name!r}: give all of them the same ones")
        return [parts[name] for _, parts, *_ in read]

    def _parsed(self, indices: Sequence[int]) -> tuple[Any, Parts, bool, NDArray[Any] | None]:
        """Input as it came, its arrays, whether they are by place, and the label."""
        what = f"example {indices[0]} of {self.name}"
        items = [self._item(index) for index in indices]
        value, label = divided(what, self.collate(items) if self.collate else items[0], self.columns)
        if self.transform is not None:
            if self.collate is not None or isinstance(value, (Mapping, tuple)):
                raise DataError(f"{self.name} gives whole batches or several inputs: transform= takes single inputs")
            value = self.transform(value)
        parts, by_place = parts_of(what, value)
        if isinstance(label, str) or (isinstance(label, (list, tuple)) and any(isinstance(one, str) for one in label)):
            raise text_refused(f"labels of {self.name}", label)
        return value, parts, by_place, None if label is _MISSING else to_array(f"the label of {what}", label)

    def _item(self, index: int) -> Any:
        try:
            return self.items[int(index)]
        except FiprayError:
            raise
        except Exception as error:  # a data set's own code may raise anything
            raise DataError(
                f"example {index} of {self.name} cannot be read: {type(error).__name__}: {error}"
            ) from error


def divided(what: str, item: Any, columns: Columns | None) -> tuple[Any, Any]:
    """Divide an example, or a batch of them, into inputs and label.

    Args:
        what: description of the example, for messages.
        item: an input, (input, label), several inputs and a label, or a dictionary.
        columns: names of inputs and labels in a dictionary; None to find them.

    Returns:
        Input, mapping or tuple of inputs; and the label, or a marker for none.

    Raises:
        DataError: for an empty tuple, and a dictionary whose inputs cannot be found.
    """
    if isinstance(item, Mapping):
        inputs, labels = chosen(tuple(map(str, item)), columns)
        value = item[inputs[0]] if len(inputs) == 1 else {name: item[name] for name in inputs}
        return value, item[labels] if labels else _MISSING
    if columns is not None:
        raise DataError(f"{what} is no dictionary, so its columns have no names: give the source without Columns")
    # Collate functions return lists for tuples; lists of numbers are inputs.
    is_tuple = isinstance(item, tuple) or (
        isinstance(item, list) and any(isinstance(one, (Tensor, np.ndarray, Mapping)) for one in item)
    )
    if not is_tuple:
        return item, _MISSING
    if not item:
        raise DataError(f"{what} is empty")
    if len(item) == 1:
        return item[0], _MISSING
    return (item[0] if len(item) == 2 else tuple(item[:-1])), item[-1]


def _channels(value: Any) -> Channels:
    if isinstance(value, Tensor) and value.is_floating_point():
        return "first"
    return "last" if hasattr(value, "getbands") else "unknown"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which transforms draw from, and restore them afterwards."""
    with _LOCK, torch.random.fork_rng(devices=[]):
        python, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002  (other libraries draw from it)
        try:
            _seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpys)  # noqa: NPY002


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed those of GPUs, too
