"""Sources of referenced data, opened once in each process, and what is read from them."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Subset, TensorDataset

from fipray.border import described
from fipray.border.functions import imported
from fipray.errors import DataError, FiprayError, UsageError
from fipray.networks import Layout
from fipray.study.referenced.reference import DataRef
from fipray.study.referenced.tar import TarImages, parts_of_tar
from fipray.study.sources import packed_examples
from fipray.study.sources.columns import chosen, is_dataset
from fipray.study.sources.examples import ArraySource, Examples, ItemSource, Source
from fipray.study.sources.labels import classes_of
from fipray.study.sources.reading import Reader

PARTS = ("train", "held_out", "test", "ood")
_CHUNK = 256  # examples that are read at a time for their labels
_NUM_COMPARED = 8  # labels that are compared with those of the examples themselves
_OPENED: dict[str, dict[str, Part]] = {}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Part:
    """One source of referenced data.

    Args:
        name: description, for messages.
        source: examples by index.
        augments: whether random transforms depend on the seed of a draw.
    """

    name: str
    source: Source
    augments: bool

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int], seed: int = 0) -> tuple[NDArray[Any], Layout | None, list[str]]:
        """Read inputs, prepared for networks.

        Args:
            indices: indices of the examples, at least one.
            seed: of random transforms, if the data is augmented.

        Returns:
            Rows [M, ...], their layout, and notes on what was done.

        Raises:
            DataError: for examples that cannot be read, or differ in shape or dtype.
        """
        return packed_examples(f"inputs of {self.name}", self._examples(indices, seed))

    def labels(self, indices: NDArray[np.int64] | None, *, reads: bool) -> NDArray[np.int64] | None:
        """Classes of examples.

        Args:
            indices: indices [M] of the examples; None for all.
            reads: read the examples for their labels where the source does not tell these otherwise.

        Returns:
            Classes [M]; None where there are none, or they are unknown without reading.
        """
        rows = np.arange(len(self)) if indices is None else indices
        few = rows[:: max(1, len(rows) // _NUM_COMPARED)][:_NUM_COMPARED].tolist()
        read = self._examples(few, 0).labels
        if read is None:
            return None
        known = _known_labels(self.source)
        # A data set around another one may have changed its labels.
        if known is None or not np.array_equal(np.asarray(known)[few], read):
            if not reads:
                return None
            _logger.info(f"reading {len(rows):,} examples of {self.name} for their labels")
            pieces = [self._examples(rows[at : at + _CHUNK].tolist(), 0) for at in range(0, len(rows), _CHUNK)]
            taken = np.concatenate([piece.labels for piece in pieces if piece.labels is not None])
        else:
            taken = np.asarray(known)[rows]
        classes, _ = classes_of(f"labels of {self.name}", taken)
        return classes

    def _examples(self, indices: Sequence[int], seed: int) -> Examples:
        if not isinstance(self.source, ItemSource):
            return self.source.read(indices, 0)
        return self.source.each(indices, [_seed(seed if self.augments else 0, index) for index in indices])


def opened(ref: DataRef) -> Mapping[str, Part]:
    """Open the sources of referenced data; in each process once.

    Args:
        ref: the reference.

    Returns:
        Sources by name, "train" and others of `PARTS`.

    Raises:
        DataError: for what is no source.
        UsageError: for a function that cannot be imported or called, or whose own code fails.
    """
    if ref.key not in _OPENED:
        sources = _sources(ref.function, _called(ref))
        _OPENED[ref.key] = {
            name: Part(f"{name!r} of {ref.function}", source, ref.augments) for name, source in sources.items()
        }
    return _OPENED[ref.key]


def _called(ref: DataRef) -> Any:
    function = imported(ref.function)
    try:
        inspect.signature(function).bind(**ref.parameters)
    except TypeError as error:
        raise UsageError(
            f"{ref.function}: {error}; parameters={dict(ref.parameters)} were given to DataRef, and the function takes "
            f"{inspect.signature(function)}"
        ) from None
    try:
        return function(**ref.parameters)
    except FiprayError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise UsageError(f"{ref.function} could not open its data: {type(error).__name__}: {error}") from error


def _sources(name: str, made: Any) -> dict[str, Source]:
    if isinstance(made, Mapping) and not is_dataset(made) and "train" in made and set(made) <= set(PARTS):
        return {part: _source(f"{part!r} of {name}", made[part]) for part in PARTS if made.get(part) is not None}
    if isinstance(made, (str, Path)) and Path(made).suffix == ".tar":
        training, test = parts_of_tar(Path(made))
        found: dict[str, Source] = {"train": _source(name, TarImages(made, training or None))}
        return found | ({"test": _source(name, TarImages(made, test))} if training and test else {})
    if isinstance(made, Mapping) and set(made) & set(PARTS) and not hasattr(made, "features"):
        unknown = ", ".join(repr(part) for part in made if part not in PARTS)
        wrong = f"the unknown parts {unknown}" if unknown else "no part 'train'"
        raise DataError(f"{name} returned a dictionary with {wrong}; its keys can be: {', '.join(PARTS)}")
    both = Reader(name).open(_mapped(made))
    return {"train": both.training} | ({} if both.test is None else {"test": both.test})


def _source(name: str, made: Any) -> Source:
    if isinstance(made, (str, Path)) and Path(made).suffix == ".tar":
        made = TarImages(made)
    source = Reader(name).open(_mapped(made)).training
    if not len(source):
        raise DataError(f"{name} is empty: it has no examples")
    return source


def _mapped(made: Any) -> Any:
    """Array of an .npy file as a memory map, of which only what is used is read."""
    if isinstance(made, (str, Path)) and Path(made).suffix == ".npy" and Path(made).is_file():
        return np.load(made, mmap_mode="r", allow_pickle=False)
    if hasattr(made, "__iter__") and not hasattr(made, "__getitem__"):
        raise DataError(
            f"{described(made)} is a stream, in which examples have no index: give a data set with len() and [i], or "
            "a tar file, TarImages(path)"
        )
    return made


def _known_labels(source: Source) -> Any:
    """Labels of all examples that a source has without reading them; None where it has none."""
    if isinstance(source, ArraySource):
        return source.labels
    if not isinstance(source, ItemSource) or source.collate is not None:
        return None
    known = _labels_in(source.items, source)
    return known if known is not None and len(known) == len(source) else None


def _labels_in(items: Any, source: ItemSource) -> Any:
    if isinstance(items, Subset):
        whole = _labels_in(items.dataset, source)
        return None if whole is None else np.asarray(whole)[np.asarray(items.indices)]
    if isinstance(items, TensorDataset):
        return items.tensors[-1].numpy() if len(items.tensors) > 1 else None
    if is_dataset(items) and items.column_names:
        _, labels = chosen(items.column_names, source.columns)
        return items[labels] if labels else None
    found = next((getattr(items, name) for name in ("targets", "labels") if hasattr(items, name)), None)
    return found if hasattr(found, "__len__") else None


def _seed(seed: int, index: int) -> int:
    """Seed of one example, of 32 bits as numpy's global generator takes them."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {index}".encode(), digest_size=4).digest(), "big")
