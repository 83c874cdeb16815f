"""Files that are whole or not there at all, and a lock between processes: what a results directory asks of its place,
and how a file system gives it.

A file is written beside its place under a dot-name, fsynced, and renamed, so that a reader sees all of it or nothing,
whatever happens to the writer. While it is written its writer holds an advisory lock on it, which the system takes
back when the process dies: a temporary that nobody locks is left over and can go.
"""

import fcntl
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, final

from fipray.errors import RecordsError
from fipray.records.layout import LOCK


class Files(Protocol):
    """The files of one results directory, by names relative to it with forward slashes. All raise RecordsError."""

    @property
    def address(self) -> str:
        """What people, and workers anywhere, open the directory by."""
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


_TEMPORARY = re.compile(r"\.fipray-[0-9a-f]{16}-.+")


def is_temporary(name: str) -> bool:
    """Whether a file of that name was made by `write_whole`."""
    return _TEMPORARY.fullmatch(name) is not None


def write_whole(file: Path, content: bytes) -> None:
    """Writes the file, replacing what was there: whole, or not at all. Makes its directory. Raises RecordsError.

    Durable on return: the file and every directory made for it are fsynced.
    """
    try:
        make_directory(file.parent)
        temporary, stream = _locked_temporary(file)
        try:
            with stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                os.replace(temporary, file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(file.parent)
    except OSError as error:
        raise RecordsError(
            f"could not write {file}: {error.strerror}. Nothing of it was kept. Make room or give write access, "
            "and run the same command again"
        ) from error


def make_directory(directory: Path) -> None:
    """Makes the directory and its parents where they are missing, and fsyncs their entries."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync_directory(directory.parent)


def remove_leftovers(directory: Path) -> None:
    """Removes, at any depth, the temporaries whose writer is gone. Other dot-files are left alone."""
    for parent, _, names in os.walk(directory):
        for file in (Path(parent, name) for name in names if is_temporary(name)):
            # BlockingIOError: its writer lives. FileNotFoundError: renamed meanwhile. Neither is left over.
            with suppress(OSError), open(file, "rb+") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()


@contextmanager
def locked(file: Path, patience_seconds: float = 60.0) -> Iterator[None]:
    """Holds an exclusive lock on the file, which is made where missing. Raises RecordsError when patience ends."""
    with _opened_for_lock(file) as stream:
        deadline = time.monotonic() + patience_seconds
        while not _try_lock(stream.fileno()):
            if time.monotonic() > deadline:
                raise RecordsError(
                    f"another process has held {file} for {patience_seconds:g} s. End it and run the same command again"
                )
            time.sleep(0.01)
        yield


def _opened_for_lock(file: Path) -> BinaryIO:
    try:
        return open(file, "ab")
    except OSError as error:
        raise RecordsError(f"could not open {file}: {error.strerror}. Give write access to its directory") from error


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_temporary(file: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `file`, open and locked by this process."""
    while True:
        temporary = file.with_name(f".fipray-{secrets.token_hex(8)}-{file.name}")
        stream = open(temporary, "xb")  # noqa: SIM115 (open for as long as it is locked; the caller closes it)
        fcntl.flock(stream, fcntl.LOCK_EX)
        # Between its making and its locking the file looked left over, and may have been removed as such.
        if os.fstat(stream.fileno()).st_nlink:
            return temporary, stream
        stream.close()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@final
@dataclass(frozen=True)
class LocalFiles:
    """A directory on a file system that every worker sees. Implements `Files`."""

    directory: Path

    @property
    def address(self) -> str:
        return str(self.directory)

    def named(self, file: str) -> str:
        return str(self.directory / file)

    def beside(self, name: str) -> tuple[str, Any]:
        return str(self.directory / name), None

    @property
    def num_at_once(self) -> int:
        return 1

    def make(self) -> None:
        try:
            make_directory(self.directory)
        except OSError as error:
            raise RecordsError(f"cannot use {self.directory}: {error.strerror}. Choose another directory") from error

    def read(self, file: str) -> bytes:
        try:
            return (self.directory / file).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RecordsError(f"could not read {self.directory / file}: {error.strerror}") from error

    def write(self, file: str, content: bytes) -> None:
        write_whole(self.directory / file, content)

    def exists(self, file: str) -> bool:
        return (self.directory / file).exists()

    def remove(self, file: str) -> None:
        (self.directory / file).unlink(missing_ok=True)

    def names(self, directory: str) -> list[str]:
        try:
            return [name for name in os.listdir(self.directory / directory) if name[0] != "." or not is_temporary(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RecordsError(f"could not read {self.directory / directory}: {error.strerror}") from error

    def claim(self, directory: str) -> bool:
        place = self.directory / directory
        try:
            place.parent.mkdir(parents=True, exist_ok=True)  # not fsynced: what is lost with it was never begun
            place.mkdir()
        except FileExistsError:
            return False
        except OSError as error:
            raise RecordsError(f"could not begin an attempt in {place.parent}: {error.strerror}") from error
        return True

    def locked(self) -> AbstractContextManager[None]:
        return locked(self.directory / LOCK)

    def remove_leftovers(self) -> None:
        remove_leftovers(self.directory)
