"""A directory that nothing done in it leaves.

A results directory may come from anywhere. A symbolic link, junction, FIFO, socket or device in the place of a file or
directory is refused, never followed or opened. Where the system can, names are looked up relative to an open directory,
so that a link that is put there between the look and the opening is refused too.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, final

from fipray.records.layout import temporary_name

_MODES = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# On Windows there are none of the first, and no handles of directories. O_NONBLOCK: a FIFO keeps nobody waiting.
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NONBLOCK", 0)
_HAS_HANDLES = {os.open, os.stat, os.mkdir, os.rename, os.unlink} <= os.supports_dir_fd and os.listdir in os.supports_fd


_PART_BYTES = 2**20


class Refused(OSError):
    """Something else than a file or directory of our own making is in its place."""


@final
@dataclass(frozen=True)
class Folder:
    """An open directory, to be closed as a file is: its place, and its handle where the system has such."""

    place: str
    handle: int | None

    @classmethod
    def at(cls, place: str | Path) -> Folder:
        """A directory by its path, through links too: who names it chooses it."""
        if _HAS_HANDLES:
            return cls(str(place), os.open(place, os.O_RDONLY | _DIRECTORY))
        if not stat.S_ISDIR(os.stat(place).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        return cls(str(place), None)

    @classmethod
    def below(cls, place: Path, directory: str, *, make: bool = False, durable: bool = False) -> Folder:
        """A directory below the place, given with forward slashes, "" for the place itself.

        make: whether it is made where it is missing; durable: whether its name then outlives a failure of power.
        """
        folder = cls.at(place)
        for part in directory.split("/") if directory else ():
            with folder:
                if make and folder.make(part) and durable:
                    folder.sync()
                child = folder.child(part)
            folder = child
        return folder

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            os.close(self.handle)

    def child(self, name: str) -> Folder:
        """The directory of that name in this one. Raises FileNotFoundError, or Refused."""
        place = f"{self.place}/{name}"
        if self.handle is None:
            self.check(name, "a directory")
            return Folder.at(place)
        try:
            return Folder(place, os.open(name, os.O_RDONLY | _DIRECTORY | _NO_LINKS, dir_fd=self.handle))
        except OSError:
            self.check(name, "a directory")
            raise

    def kind_of(self, name: str) -> str | None:
        """What is there under the name, such as "a file"; None where there is nothing."""
        try:
            found = os.stat(self._at(name), dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None
        is_junction = getattr(found, "st_reparse_tag", 0) == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
        return "a junction" if is_junction else _MODES.get(stat.S_IFMT(found.st_mode), "neither file nor directory")

    def check(self, name: str, wanted: str) -> None:
        """Raises Refused where something else than `wanted`, "a file" or "a directory", has the name."""
        if (kind := self.kind_of(name)) not in (None, wanted):
            raise self._refused(name, str(kind), wanted)

    def open(self, name: str, flags: int) -> BinaryIO:
        """A regular file for writing, with `os.O_...` flags. Raises FileNotFoundError, or Refused."""
        return os.fdopen(self._descriptor(name, flags), "wb")

    def read(self, name: str) -> bytes:
        """The content of a regular file. Raises FileNotFoundError, Refused, or OSError for more than memory holds."""
        descriptor = self._descriptor(name, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size > _memory_bytes():
                raise MemoryError
            parts = [os.read(descriptor, size + 1)]
            while parts[-1]:
                parts.append(os.read(descriptor, _PART_BYTES))
            return b"".join(parts)
        except MemoryError:
            raise OSError(errno.EFBIG, f"its {size:,} bytes do not fit into memory") from None
        finally:
            os.close(descriptor)

    def write(self, name: str, content: bytes) -> None:
        """Writes the file, replacing what was there: whole, or not at all; durable on return."""
        from fipray.records.locks import lock_now  # who only reads needs none

        is_written = False
        while not is_written:
            temporary = temporary_name(name)
            with self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as stream:
                # Until it is locked it looks left over, and may be removed as such: then it has no name any more.
                if lock_now(stream) and os.fstat(stream.fileno()).st_nlink:
                    try:
                        stream.write(content)
                        stream.flush()
                        os.fsync(stream.fileno())
                        at, to = self._at(temporary), self._at(name)
                        os.replace(at, to, src_dir_fd=self.handle, dst_dir_fd=self.handle)
                    except BaseException:
                        self.remove(temporary)
                        raise
                    is_written = True
        self.sync()

    def remove(self, name: str) -> None:
        """Removes the file, if it is there; of a link the link itself."""
        with suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self.handle)

    def names(self) -> list[str]:
        return os.listdir(self.place if self.handle is None else self.handle)

    def scan(self) -> list[tuple[str, bool]]:
        """Every name, and whether it is that of a directory, without links."""
        with os.scandir(self.place if self.handle is None else self.handle) as entries:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]

    def make(self, name: str) -> bool:
        """Makes a directory; False where something is there already."""
        try:
            os.mkdir(self._at(name), dir_fd=self.handle)
        except FileExistsError:
            return False
        return True

    def sync(self) -> None:
        """Makes the names in it durable, where the system can."""
        if self.handle is not None:
            os.fsync(self.handle)

    def _descriptor(self, name: str, flags: int) -> int:
        self.check(name, "a file")
        descriptor = os.open(self._at(name), flags | _NO_LINKS, 0o666, dir_fd=self.handle)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._refused(name, "no file", "a file")
        return descriptor

    def _at(self, name: str) -> str:
        return name if self.handle is not None else f"{self.place}/{name}"

    def _refused(self, name: str, kind: str, wanted: str) -> Refused:
        advice = f"where {wanted} belongs: remove it"
        if kind in ("a symbolic link", "a junction"):
            advice = "which is not followed: put a copy of what it leads to in its place, or remove it"
        return Refused(errno.EINVAL, f"{self.place}/{name} is {kind}, {advice}")


def make_directory(directory: Path) -> None:
    """Makes the directory and its parents where they are missing, and makes their names durable."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        with Folder.at(directory.parent) as folder:
            folder.sync()


@cache
def _memory_bytes() -> int:
    """Of this machine; no limit where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
