"""Recognition of sources: what an object or a file is, and its training and test part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    default_collate,
)

from fipray.border import described
from fipray.errors import DataError
from fipray.study.sources.columns import Columns, arrays_in, chosen, is_dataset, label_among, split_names, splits
from fipray.study.sources.examples import ArraySource, ItemSource, Source, Transform

KNOWN = (
    "a torch Dataset or DataLoader, a data set of Hugging Face or Ray Data, numpy arrays or torch tensors, a tuple "
    "(inputs, labels), a dictionary of arrays, a data frame, a Bunch of scikit-learn, a folder of images, or the path "
    "of an .npz or .npy file"
)


@dataclass(frozen=True, eq=False)
class Opened:
    """Parts of a source.

    Args:
        training: training part.
        test: test part, if the source has one.
        notes: what was left out.
    """

    training: Source
    test: Source | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Reader:
    """How sources are opened.

    Args:
        name: name of the source, for messages.
        transform: applied to each single input; None for none.
        limit: most examples to take from a stream; None for all.
    """

    name: str
    transform: Transform | None = None
    limit: int | None = None

    def open(self, source: Any, columns: Columns | None = None) -> Opened:
        """Open a source.

        Args:
            source: see `Data.of`.
            columns: names of inputs and labels; None to find them.

        Returns:
            Its parts.

        Raises:
            DataError: for anything that is no source, with what is.
        """
        if isinstance(source, Columns):
            return self.open(source.source, source)
        if isinstance(source, (str, Path)):
            return self._file(Path(source).expanduser(), columns)
        if isinstance(source, DataLoader):
            return Opened(self._loader(source, columns))
        if isinstance(source, IterableDataset):
            return Opened(self._items(self._taken(source), columns))
        if is_dataset(source):
            return Opened(self._items(source, columns, classes=_class_names(source, columns)))
        if isinstance(source, Mapping):
            return self._mapping(source, columns)
        if isinstance(source, tuple) and len(source) == 2:
            return Opened(ArraySource(self.name, source[0], source[1], self.transform))
        if hasattr(source, "to_numpy") and hasattr(source, "columns"):
            return self._frame(source, columns)
        if isinstance(source, (Tensor, np.ndarray)) or hasattr(source, "to_numpy"):
            return Opened(ArraySource(self.name, source, None, self.transform))
        if hasattr(source, "iter_rows"):  # of Ray Data, without importing it
            return Opened(self._items(self._taken(source.iter_rows()), columns))
        if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, tuple):
            return Opened(self._items(source, columns, classes=_classes(source)))
        raise DataError(f"{self.name} is {described(source)}; it can be {KNOWN}")

    def _items(
        self, items: Any, columns: Columns | None = None, collate: Any = None, classes: Sequence[Any] | None = None
    ) -> ItemSource:
        return ItemSource(self.name, items, self.transform, columns, collate, classes)

    def _taken(self, stream: Iterable[Any]) -> list[Any]:
        return list(islice(stream, self.limit))

    def _loader(self, loader: DataLoader[Any], columns: Columns | None) -> ItemSource:
        items, sampler = loader.dataset, loader.sampler
        # A list of examples is collated the same way, whatever the batches of the loader were.
        collate = None if loader.collate_fn is default_collate else loader.collate_fn
        if isinstance(items, IterableDataset):
            return self._items(self._taken(items), columns, collate)
        if isinstance(sampler, SubsetRandomSampler):
            return self._items(Subset(items, sorted(sampler.indices)), columns, collate)
        if not isinstance(sampler, (SequentialSampler, RandomSampler)):
            raise DataError(
                f"{self.name} is a DataLoader that draws examples by a {type(sampler).__name__}, some of them several "
                "times or not at all: give loader.dataset, or a torch.utils.data.Subset of it"
            )
        return self._items(items, columns, collate, _classes(items))

    def _mapping(self, mapping: Mapping[str, Any], columns: Columns | None) -> Opened:
        if mapping and all(is_dataset(part) for part in mapping.values()):
            first, second = split_names(tuple(mapping))
            if not first:
                raise DataError(
                    f"{self.name} has the splits {', '.join(mapping)}, and none named train: give one of them"
                )
            opened = [self.open(mapping[name], columns).training for name in (first, second) if name]
            return Opened(opened[0], opened[1] if second else None)
        arrays = arrays_in(mapping)
        if not arrays:
            found = ", ".join(map(repr, mapping)) or "no entries"
            raise DataError(f"{self.name} has no arrays; it has {found}")
        training, tests = splits(arrays)
        if not training:
            raise DataError(f"{self.name} has no arrays to train on; it has {', '.join(map(repr, arrays))}")
        inputs, labels = chosen(tuple(training), columns)
        parts = [self._arrays(arrays, names, inputs, labels) for names in (training, tests) if inputs[0] in names]
        unused = [name for rest, name in (*training.items(), *tests.items()) if rest not in (*inputs, labels)]
        note = f"{self.name} has further arrays that are left out: {', '.join(unused)}"
        return Opened(parts[0], parts[1] if len(parts) > 1 else None, (note,) if unused else ())

    def _arrays(
        self, arrays: Mapping[str, Any], names: Mapping[str, str], inputs: Sequence[str], labels: str
    ) -> Source:
        if missing := [name for name in inputs if name not in names]:
            raise DataError(f"{self.name} has no test array for the input {missing[0]!r}; it has: {', '.join(arrays)}")
        given = {name: arrays[names[name]] for name in inputs}
        inside = given if len(given) > 1 else given[inputs[0]]
        return ArraySource(self.name, inside, arrays[names[labels]] if labels in names else None, self.transform)

    def _frame(self, frame: Any, columns: Columns | None) -> Opened:
        """Open a data frame, whose columns are the features of one input."""
        names = [str(name) for name in frame.columns]
        if columns is not None:
            inputs, labels = chosen(names, columns)
        else:
            labels = label_among(names)
            inputs = tuple(name for name in names if name != labels)
        by_name = dict(zip(names, frame.columns, strict=True))
        source = ArraySource(
            self.name,
            frame[[by_name[name] for name in inputs]].to_numpy(),
            frame[by_name[labels]].to_numpy() if labels else None,
            self.transform,
        )
        return Opened(source, notes=(f"the column {labels!r} of {self.name} is taken for labels",) if labels else ())

    def _file(self, path: Path, columns: Columns | None) -> Opened:
        if path.is_dir():
            return self._folder(path)
        if not path.is_file():
            raise DataError(f"{self.name}: there is no file or folder {path}; a source can be {KNOWN}")
        if path.suffix not in (".npz", ".npy"):
            raise DataError(f"{self.name}: {path.name} is neither .npz nor .npy; a source can be {KNOWN}")
        try:
            # Without pickle, so that reading a file runs no code.
            with np.load(path, allow_pickle=False) if path.suffix == ".npz" else _Closing(path) as arrays:
                named = {name: arrays[name] for name in arrays}
        except (ValueError, OSError, EOFError, KeyError) as error:
            raise DataError(f"{self.name}: {path} cannot be read as arrays of numbers: {error}") from error
        return self._mapping(named, columns) if path.suffix == ".npz" else self.open(named["inputs"], columns)

    def _folder(self, path: Path) -> Opened:
        training, test = split_names([each.name for each in path.iterdir() if each.is_dir()])
        if training:
            return Opened(self._images(path / training), self._images(path / test) if test else None)
        return Opened(self._images(path))

    def _images(self, path: Path) -> ItemSource:
        from torchvision.datasets import ImageFolder

        try:
            folder = ImageFolder(str(path))
        except FileNotFoundError as error:
            raise DataError(
                f"{self.name}: {path} is no folder of images: it must hold one folder of images a class, or folders "
                f"train and val or test of them ({error})"
            ) from error
        return self._items(folder, classes=folder.classes)


class _Closing(dict[str, Any]):
    """Array of an .npy file as a context, like the file of `numpy.load` for .npz."""

    def __init__(self, path: Path) -> None:
        super().__init__(inputs=np.load(path, allow_pickle=False))

    def __enter__(self) -> _Closing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _classes(dataset: Any) -> Sequence[Any] | None:
    found = getattr(dataset, "classes", None)
    return found if isinstance(found, (list, tuple)) else None


def _class_names(dataset: Any, columns: Columns | None) -> Sequence[Any] | None:
    """Names of the classes of a data set of Hugging Face."""
    if not dataset.column_names:
        return None
    _, labels = chosen(dataset.column_names, columns)
    return getattr(dict(dataset.features or {}).get(labels), "names", None) if labels else None
