"""Files that are whole or not there at all, and a lock between processes: what a results directory asks of its place,
and how a file system gives it.

A file is written beside its place under a dot-name, fsynced, and renamed, so that a reader sees all of it or nothing,
whatever happens to the writer. While it is written its writer holds an advisory lock on it, which the system takes
back when the process dies: a temporary that nobody locks is left over and can go.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from fipray.errors import RecordsError, UsageError
from fipray.records.folder import Folder, Refused, make_directory
from fipray.records.layout import LOCK, is_temporary


class Files(Protocol):
    """The files of one results directory, by names relative to it with forward slashes. All raise RecordsError."""

    @property
    def address(self) -> str:
        """What people call the directory. Credentials that it is opened with are not in it."""
        ...

    @property
    def location(self) -> str:
        """What the directory is opened by, here and on every other machine. May hold credentials: it is never shown."""
        ...

    def named(self, file: str) -> str:
        """What people call a file of it."""
        ...

    def beside(self, name: str) -> tuple[str, Any]:
        """The place of a directory of that name that is not ours to read, and its pyarrow file system or None."""
        ...

    @property
    def num_at_once(self) -> int:
        """How many files are best read at a time."""
        ...

    def make(self) -> None:
        """Makes the directory where it is missing."""
        ...

    def read(self, file: str) -> bytes:
        """The content of a file. Raises FileNotFoundError where there is none."""
        ...

    def write(self, file: str, content: bytes) -> None:
        """Writes the file, replacing what was there: whole, or not at all; durable on return."""
        ...

    def exists(self, file: str) -> bool: ...

    def remove(self, file: str) -> None:
        """Removes the file, if it is there."""
        ...

    def names(self, directory: str) -> list[str]:
        """The names of files and directories in a directory, "" for the whole; none where there is no such directory.

        Without temporaries.
        """
        ...

    def claim(self, directory: str) -> bool:
        """Makes a directory; False where it is there already. Of several who claim one, at most one is told True."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Holds the one lock of the directory, for a moment. Raises RecordsError where it cannot be had in time."""
        ...

    def remove_leftovers(self) -> None:
        """Removes what writers who died left unfinished."""
        ...


_DEEPEST, _DEEPEST_BESIDE = 3, 16  # directories in directories: our own, and those of whoever is beside us


def write_whole(file: Path, content: bytes) -> None:
    """Writes the file, replacing what was there: whole, or not at all. Makes its directory. Raises RecordsError.

    Durable on return: the file and every directory made for it are fsynced.
    """
    check_place(file)
    with _said(f"write {file}", _UNWRITTEN):
        make_directory(file.parent)
        with Folder.at(file.parent) as folder:
            folder.write(file.name, content)


_UNWRITTEN = ". Nothing of it was kept. Make room or give write access, and run the same command again"


@contextmanager
def _said(what: str, advice: str = "", missing_is_said: bool = True) -> Iterator[None]:
    """What the file system complains of, as a sentence."""
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
    """A directory on a file system that every worker sees. Implements `Files`.

    The directory itself may be a link; no link inside it is followed.
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
        return [name for name in names if name[0] != "." or not is_temporary(name)]

    def claim(self, directory: str) -> bool:
        # Not durable: what is lost with it never began.
        with _said(f"begin an attempt in {self.named(directory)}"), self._folder_of(directory, make=True) as folder:
            return folder.make(_name_of(directory))

    @contextmanager
    def locked(self) -> Iterator[None]:
        from fipray.records.locks import lock  # who only reads needs none

        with ExitStack() as stack:
            with _said(f"lock {self.named(LOCK)}", ". Give write access to its directory"):
                folder = stack.enter_context(Folder.at(self.directory))
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
    """Removes the temporaries whose writer is gone. Other dot-files are left alone."""
    from fipray.records.locks import lock_now

    for name, is_directory in folder.scan():
        with suppress(OSError):  # renamed meanwhile, or not ours to remove
            if is_directory and depth:
                with folder.child(name) as child:
                    _remove_leftovers(child, depth - 1)
            elif is_temporary(name):
                with folder.open(name, os.O_RDWR) as stream:
                    if lock_now(stream):  # else its writer lives
                        folder.remove(name)


def _check_tree(folder: Folder, depth: int) -> None:
    """Raises Refused where anything but files and directories is in it: others, who read and write it, follow links."""
    for name, is_directory in folder.scan():
        if not is_directory:
            folder.check(name, "a file")
        elif depth:
            with folder.child(name) as child:
                _check_tree(child, depth - 1)
        else:
            raise Refused(errno.EINVAL, f"{folder.place}/{name} is deeper than anything that fipray writes: remove it")


def files_at(directory: str | Path) -> Files:
    """The files of a directory, or of an address in an object store. Raises UsageError for any other address."""
    check_place(directory)
    address = re.sub(r"^(\w+):/(?=[^/])", r"\1://", str(directory))  # a pathlib.Path leaves one slash of two
    if "://" not in address:
        return LocalFiles(_expanded(Path(directory)).absolute())  # which means the same in every process
    from fipray.records.objects import ObjectFiles  # loaded only by those who need it

    return ObjectFiles.at(address)


def check_place(place: str | Path) -> None:
    """Raise UsageError for a text that names no file, directory or address on any system."""
    text = str(place)
    if not text.strip():
        raise UsageError(f"{text!r} names no file or directory: name one; the current directory is '.'")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} can be no name of a file or directory: {error.reason}") from error
    if b"\0" in encoded:
        raise UsageError(f"{text!r} can be no name of a file or directory: it holds a null character")


def _expanded(path: Path) -> Path:
    """The path with `~` or `~user` as that home directory."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path} begins with a home directory that is not known: write it out") from error
