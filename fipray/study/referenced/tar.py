"""Images in tar files, by random access."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from fipray.errors import DataError
from fipray.study.sources.columns import split_names

_IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_LABELS = (".cls", ".json")


class _Member(NamedTuple):
    """Place of one image."""

    file: int
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class _Index:
    """Images of tar files in order.

    Args:
        members: places of the images.
        labels: their classes; None where there are none.
        classes: names of the classes, where folders have them.
    """

    members: list[_Member]
    labels: list[int] | None
    classes: list[str] | None


class TarImages:
    """Labelled images in uncompressed tar files, read from where they lie: nothing is unpacked.

    Either a folder of images was packed, one folder a class or folders `train` and `val` or `test` of them, whose
    classes and order are those of torchvision's ImageFolder; or the files are of the WebDataset kind, `NAME.jpg` with
    `NAME.cls` (a number) or `NAME.json` (`{"label": 3}`) beside it, in their order. Files are indexed once, by their
    headers.

    Args:
        paths: path of a tar file, or of several that are one data set.
        part: "train" or "test" for one of these folders (`val` or `test`); None for all images.
        transform: applied to each image of Pillow, RGB; None for none.

    Attributes:
        targets: classes of the images; None where there are none.
        classes: names of the classes, where folders have them.

    Raises:
        DataError: for files that are no uncompressed tar files, without images, or with labels for some images only.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        part: str | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.paths = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
        self.transform = transform
        index = _indexed(self.paths, part)
        self._members, self.targets, self.classes = index.members, index.labels, index.classes

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Any:
        from PIL import Image

        with Image.open(io.BytesIO(self._read(self._members[index]))) as file:
            image: Any = file.convert("RGB")
        if self.transform is not None:
            image = self.transform(image)
        return image if self.targets is None else (image, self.targets[index])

    def _read(self, member: _Member) -> bytes:
        # Opened anew: threads share nothing then, and no number of files is too many.
        with self.paths[member.file].open("rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


def parts_of_tar(path: Path) -> tuple[str, str]:
    """Name the folders of training and test images in a tar file.

    Args:
        path: tar file.

    Returns:
        Names of both folders, each empty if there is none.
    """
    return split_names(sorted({_parts(name)[0] for name, *_ in _images(path)[0]}))


def _indexed(paths: Sequence[Path], part: str | None) -> _Index:
    found, labels = list[tuple[str, _Member]](), dict[tuple[int, str], int]()
    for number, path in enumerate(paths):
        images, own = _images(path)
        found += [(name, _Member(number, offset, size)) for name, offset, size in images]
        labels |= {(number, stem): label for stem, label in own.items()}
    named = [(_parts(name), member) for name, member in found]
    if part is not None:
        training, test = split_names(sorted({parts[0] for parts, _ in named}))
        wanted = {"train": training, "test": test}.get(part, part)
        inside = [number for number, (parts, _) in enumerate(named) if parts[0] == wanted and len(parts) > 1]
        found = [found[number] for number in inside]
        named = [(named[number][0][1:], named[number][1]) for number in inside]
    where = ", ".join(map(str, paths))
    if not found:
        raise DataError(f"{where} has no images" + (f" in a part {part!r}" if part else ""))
    if labels:
        keys = [(member.file, _stem(name)) for name, member in found]
        if missing := [name for (name, _), key in zip(found, keys, strict=True) if key not in labels]:
            raise DataError(f"{where} has labels, but none for {len(missing)} images, the first {missing[0]}: give all")
        return _Index([member for _, member in found], [labels[key] for key in keys], None)
    if any(len(parts) < 2 for parts, _ in named):
        return _Index([member for _, member in found], None, None)
    # In the order of ImageFolder: classes in alphabetical order, and the files of each.
    named.sort(key=lambda each: (each[0][0], each[0][1:-1], each[0][-1]))
    classes = sorted({parts[0] for parts, _ in named})
    numbers = {name: number for number, name in enumerate(classes)}
    return _Index([member for _, member in named], [numbers[parts[0]] for parts, _ in named], classes)


def _images(path: Path) -> tuple[list[tuple[str, int, int]], dict[str, int]]:
    """Names, offsets and sizes of the images of a tar file, and labels by the name of an image without its suffix.

    A folder around all of them is left out of the names.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"there is no tar file {path}: {error}") from error
    images, labels = _headers(path, state.st_size, state.st_mtime_ns)
    outer = {_parts(name)[0] for name, *_ in images if len(_parts(name)) > 2}
    if len(outer) != 1 or any(len(_parts(name)) < 3 for name, *_ in images) or any(split_names(list(outer))):
        return images, labels
    cut = {name: "/".join(_parts(name)[1:]) for name in (*(name for name, *_ in images), *labels)}
    moved = [(cut[name], offset, size) for name, offset, size in images]
    return moved, {cut[name]: label for name, label in labels.items()}


@lru_cache(8)
def _headers(path: Path, num_bytes: int, changed: int) -> tuple[list[tuple[str, int, int]], dict[str, int]]:
    images, labels = list[tuple[str, int, int]](), dict[str, int]()
    try:
        # "r:" takes no compressed file, in which nothing can be read from where it lies.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.name.startswith("."):
                    continue
                if name.suffix.lower() in _IMAGES:
                    images.append((member.name, member.offset_data, member.size))
                elif name.suffix.lower() in _LABELS:
                    file = tar.extractfile(member)
                    label = None if file is None else _label(name, file.read())
                    labels |= {} if label is None else {_stem(member.name): label}
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as an uncompressed tar file: {error}; unpack compression first, as gunzip does"
        ) from error
    return images, labels


def _label(name: PurePosixPath, text: bytes) -> int | None:
    """Class in a file beside an image; None where a .json file has none."""
    try:
        if name.suffix.lower() == ".cls":
            return int(text)
        value = json.loads(text)
        found = next((value[key] for key in ("label", "cls", "class") if key in value), None)
        return None if found is None else int(found)
    except (ValueError, TypeError) as error:
        raise DataError(f"{name} holds no class, which is a whole number from 0: {error}") from error


def _parts(name: str) -> tuple[str, ...]:
    """Parts of a path without a leading "." or "/"."""
    return tuple(part for part in PurePosixPath(name).parts if part != "/")


def _stem(name: str) -> str:
    """Path of a file without its suffix: what files of the WebDataset kind have in common."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"
