"""Files of a results directory on a file system, written atomically.

A file is written under a temporary name in its directory, fsynced, and renamed, so that readers see all of it or
nothing, whatever happens to the writer. While writing, the writer holds an advisory lock on the temporary file, which
the system releases when the process dies: a temporary file without a lock is a leftover and can be removed.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fipray.errors import RecordsError, UsageError
from fipray.records.folder import Folder, Refused, make_directory
from fipray.records.layout import LOCK, is_temporary

# Depth of directories below the results directory: of its own files, and of what other libraries keep there.
# The deepest of its own is weights/<id>/<attempt>/<file>; both numbers bound recursion over trees of unknown origin.
_DEEPEST, _DEEPEST_BESIDE = 3, 16


def write_whole(file: Path, content: bytes) -> None:
    """Write a file atomically and durably, replacing an existing one.

    The file and every directory that is created for it are fsynced.

    Args:
        file: path of the file.
        content: content of the file.

    Raises:
        UsageError: if the path is not valid on any system.
        RecordsError: if the file cannot be written.
    """
    check_place(file)
    with _said(f"write {file}", _UNWRITTEN):
        make_directory(file.parent)
        with Folder.at(file.parent) as folder:
            folder.write(file.name, content)


_UNWRITTEN = ". Nothing was written. Make room or give write access, and run the same command again"


@contextmanager
def _said(what: str, advice: str = "", missing_is_said: bool = True) -> Iterator[None]:
    """Turn errors of the file system into a RecordsError with one sentence."""
    try:
        yield
    except Refused as error:
        raise RecordsError(error.strerror) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not missing_is_said:
            raise
        raise RecordsError(f"could not {what}: {error.strerror or error}{advice}") from error


@final
@dataclass(frozen=True)
class LocalFiles:
    """Files of a directory on a file system that all workers share. Implements `Files`.

    Args:
        directory: absolute path. The directory itself may be a link; no link inside it is followed.
    """

    directory: Path

    @property
    def address(self) -> str:
        return str(self.directory)

    @property
    def location(self) -> str:
        return str(self.directory)

    def named(self, file: str) -> str:
        return str(self.directory / file)

    def beside(self, name: str) -> tuple[str, Any]:
        with (
            _said(f"look into {self.named(name)}"),
            suppress(FileNotFoundError),
            Folder.below(self.directory, name) as folder,
        ):
            _check_tree(folder, _DEEPEST_BESIDE)
        return self.named(name), None

    @property
    def num_at_once(self) -> int:
        return 1

    def make(self) -> None:
        with _said(f"use {self.directory}", ". Choose another directory"):
            make_directory(self.directory)

    def read(self, file: str) -> bytes:
        with _said(f"read {self.named(file)}", missing_is_said=False), self._folder_of(file) as folder:
            return folder.read(_name_of(file))

    def write(self, file: str, content: bytes) -> None:
        with _said(f"write {self.named(file)}", _UNWRITTEN), self._folder_of(file, make=True, durable=True) as folder:
            folder.write(_name_of(file), content)

    def exists(self, file: str) -> bool:
        with _said(f"look for {self.named(file)}"), suppress(FileNotFoundError), self._folder_of(file) as folder:
            return folder.kind_of(_name_of(file)) is not None
        return False

    def remove(self, file: str) -> None:
        with _said(f"remove {self.named(file)}"), suppress(FileNotFoundError), self._folder_of(file) as folder:
            folder.remove(_name_of(file))

    def names(self, directory: str) -> list[str]:
        try:
            with (
                _said(f"read {self.named(directory)}", missing_is_said=False),
                Folder.below(self.directory, directory) as folder,
            ):
                names = folder.names()
        except FileNotFoundError:
            return []
        # The first test spares most of up to 100,000 names the regular expression.
        return [name for name in names if name[0] != "." or not is_temporary(name)]

    def claim(self, directory: str) -> bool:
        # Not durable: if the name is lost in a power failure, so is the attempt.
        with _said(f"begin an attempt in {self.named(directory)}"), self._folder_of(directory, make=True) as folder:
            return folder.make(_name_of(directory))

    @contextmanager
    def locked(self) -> Iterator[None]:
        from fipray.records.locks import lock  # imported here, as readers do without portalocker

        with ExitStack() as stack:
            with _said(f"lock {self.named(LOCK)}", ". Give write access to its directory"):
                folder = stack.enter_context(Folder.at(self.directory))
                # Never removed: a lock on a removed file would not exclude whoever creates a new one.
                stream = stack.enter_context(folder.open(LOCK, os.O_WRONLY | os.O_CREAT))
                lock(stream, self.named(LOCK))
            yield

    def remove_leftovers(self) -> None:
        with _said(f"remove what is left over in {self.directory}"), Folder.at(self.directory) as folder:
            _remove_leftovers(folder, _DEEPEST)

    def _folder_of(self, file: str, *, make: bool = False, durable: bool = False) -> Folder:
        return Folder.below(self.directory, file.rpartition("/")[0], make=make, durable=durable)


def _name_of(file: str) -> str:
    return file.rpartition("/")[2]


def _remove_leftovers(folder: Folder, depth: int) -> None:
    """Remove temporary files whose writer died. Other dot-files are left alone."""
    from fipray.records.locks import lock_now

    for name, is_directory in folder.scan():
        with suppress(OSError):  # renamed meanwhile, or of another user
            if is_directory and depth:
                with folder.child(name) as child:
                    _remove_leftovers(child, depth - 1)
            elif is_temporary(name):
                # For writing, which NFS needs for exclusive locks; not truncated, as the writer may be alive.
                with folder.open(name, os.O_RDWR) as stream:
                    if lock_now(stream):  # otherwise its writer is alive
                        folder.remove(name)


def _check_tree(folder: Folder, depth: int) -> None:
    """Raise Refused for anything but files and directories: libraries that read and write there follow links."""
    for name, is_directory in folder.scan():
        if not is_directory:
            folder.check(name, "a file")
        elif depth:
            with folder.child(name) as child:
                _check_tree(child, depth - 1)
        else:
            raise Refused(errno.EINVAL, f"{folder.place}/{name} is deeper than anything that fipray writes: remove it")


def check_place(place: str | Path) -> None:
    """Check that a text can name a file, directory or address.

    Args:
        place: path or address.

    Raises:
        UsageError: if it is blank, contains a null character, or cannot be encoded.
    """
    text = str(place)
    if not text.strip():
        raise UsageError(f"{text!r} does not name a file or directory: name one; the current directory is '.'")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} cannot name a file or directory: {error.reason}") from error
    if b"\0" in encoded:
        raise UsageError(f"{text!r} cannot name a file or directory: it contains a null character")
