"""Places that networks are written to: checked first, and never half written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from fipray.errors import RecordsError, UsageError
from fipray.records.files import check_place
from fipray.records.folder import make_directory
from fipray.records.layout import temporary_name


def new_place(to: str | Path) -> Path:
    """Check that a file or directory can be made.

    Args:
        to: path, in which `~` stands for the home directory.

    Returns:
        The path.

    Raises:
        UsageError: for an invalid path, an address in an object store, and a place where there is something already.
    """
    check_place(to)
    if "://" in str(to):
        raise UsageError(
            f"{to} is an address, and networks are exported to this machine: give a path, and copy it then"
        )
    try:
        place = Path(to).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{to} begins with an unknown home directory: give the full path") from error
    if os.path.lexists(place):
        raise UsageError(f"{place} exists already; nothing was written. Choose another name")
    return place


@contextmanager
def new_directory(place: Path) -> Iterator[Path]:
    """Make a directory that appears complete or not at all.

    Args:
        place: path of the directory, which must not exist.

    Yields:
        Temporary directory beside it to write files to, which is renamed in the end and removed after an error.

    Raises:
        RecordsError: if it cannot be written, and if something appeared in its place meanwhile.
    """
    beside = place.parent / temporary_name(place.name)
    try:
        make_directory(place.parent)
        beside.mkdir()
        yield beside
        for file in [*(each for each in beside.rglob("*") if each.is_file()), beside]:
            _sync(file)
        if os.path.lexists(place):  # on some systems an empty directory would be replaced silently
            raise FileExistsError(0, "it exists already")
        beside.rename(place)
        _sync(place.parent)
    except (OSError, SafetensorError) as error:  # safetensors wraps errors of the file system
        reason = getattr(error, "strerror", None) or error
        raise RecordsError(
            f"could not write {place}: {reason}. Nothing was written. Make room or give write access, and run the same "
            "command again"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file or directory to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directories
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
