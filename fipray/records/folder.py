"""Access to directories of unknown origin, which cannot lead outside of them.

A results directory may come from anywhere. A symbolic link, junction, FIFO, socket or device in the place of a file or
directory is refused, never followed or opened. Where the system allows it, names are looked up relative to an open
directory, so that a link that appears between the check and the opening is refused too.
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
# Windows lacks most of these flags, and handles of directories. O_NONBLOCK: opening a FIFO must not wait for a writer.
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NONBLOCK", 0)
# Handles are file descriptors of directories, which calls such as openat take.
_HAS_HANDLES = {os.open, os.stat, os.mkdir, os.rename, os.unlink} <= os.supports_dir_fd and os.listdir in os.supports_fd

_PART_BYTES = 2**20


class Refused(OSError):
    """Something other than a plain file or directory is in its place."""


@final
@dataclass(frozen=True)
class Folder:
    """An open directory; a context manager that closes it.

    Args:
        place: path of the directory.
        handle: its file descriptor; None on systems without `openat`.
    """

    place: str
    handle: int | None

    @classmethod
    def at(cls, place: str | Path) -> Folder:
        """Open a directory by its path, following links: the path is the caller's choice.

        Args:
            place: path of the directory.

        Returns:
            The open directory.
        """
        if _HAS_HANDLES:
            return cls(str(place), os.open(place, os.O_RDONLY | _DIRECTORY))
        if not stat.S_ISDIR(os.stat(place).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
        return cls(str(place), None)

    @classmethod
    def below(cls, place: Path, directory: str, *, make: bool = False, durable: bool = False) -> Folder:
        """Open a directory below another one, refusing links.

        Args:
            place: path of the upper directory, which may be a link.
            directory: name relative to it with forward slashes; "" for the directory itself.
            make: whether to create directories that are missing.
            durable: whether to fsync the names of those that are created, so that they survive a power failure.

        Returns:
            The open directory.

        Raises:
            Refused: if something other than a directory is in its place.
        """
        folder = cls.at(place)
        # One part at a time, each relative to the open directory before: os.open checks only the last part for a link.
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
        """Open a directory in this one.

        Args:
            name: name in this directory.

        Returns:
            The open directory.

        Raises:
            FileNotFoundError: if it does not exist.
            Refused: if it is not a directory.
        """
        place = f"{self.place}/{name}"
        if self.handle is None:
            self.check(name, "a directory")
            return Folder.at(place)
        try:
            return Folder(place, os.open(name, os.O_RDONLY | _DIRECTORY | _NO_LINKS, dir_fd=self.handle))
        except OSError:
            self.check(name, "a directory")  # a better message, where the cause is a link
            raise

    def kind_of(self, name: str) -> str | None:
        """Kind of an entry, without following links.

        Args:
            name: name in this directory.

        Returns:
            Kind in words, such as "a file"; None if there is nothing of that name.
        """
        try:
            found = os.stat(self._at(name), dir_fd=self.handle, follow_symlinks=False)
        except FileNotFoundError:
            return None
        # By its mode a junction is a directory, but it leads elsewhere as a link does.
        is_junction = getattr(found, "st_reparse_tag", 0) == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
        return "a junction" if is_junction else _MODES.get(stat.S_IFMT(found.st_mode), "neither file nor directory")

    def check(self, name: str, wanted: str) -> None:
        """Check the kind of an entry.

        Args:
            name: name in this directory.
            wanted: "a file" or "a directory".

        Raises:
            Refused: if the entry exists and is of another kind.
        """
        if (kind := self.kind_of(name)) not in (None, wanted):
            raise self._refused(name, str(kind), wanted)

    def open(self, name: str, flags: int) -> BinaryIO:
        """Open a regular file for writing.

        Args:
            name: name in this directory.
            flags: flags of `os.open`, such as `os.O_WRONLY | os.O_CREAT`.

        Returns:
            The open file.

        Raises:
            FileNotFoundError: if it does not exist and is not created.
            Refused: if it is not a regular file.
        """
        return os.fdopen(self._descriptor(name, flags), "wb")

    def read(self, name: str) -> bytes:
        """Read a regular file.

        Args:
            name: name in this directory.

        Returns:
            Content of the file.

        Raises:
            FileNotFoundError: if it does not exist.
            Refused: if it is not a regular file.
            OSError: if it does not fit into memory, or cannot be read.
        """
        descriptor = self._descriptor(name, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            # Sparse files of any size cost nothing on disk; reading one could get this process killed.
            if size > _memory_bytes():
                raise MemoryError
            # One byte more than the size, so that the end of a file that has not grown is found by the second call.
            parts = [os.read(descriptor, size + 1)]
            # One call may return less than was asked for; Linux never returns more than 2 GiB.
            while parts[-1]:
                parts.append(os.read(descriptor, _PART_BYTES))
            return b"".join(parts)
        except MemoryError:
            raise OSError(errno.EFBIG, f"its {size:,} bytes do not fit into memory") from None
        finally:
            os.close(descriptor)

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically and durably, replacing an existing one.

        The content is written under a temporary name, fsynced, and renamed.

        Args:
            name: name in this directory.
            content: content of the file.
        """
        from fipray.records.locks import lock_now  # imported here, as readers do without portalocker

        is_written = False
        while not is_written:
            temporary = temporary_name(name)
            # O_EXCL refuses any name that exists, even a dangling link, which O_CREAT alone would follow.
            with self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as stream:
                # Until it is locked, it looks like a leftover and another process may remove it: then it has no name
                # left, and the loop tries again.
                if lock_now(stream) and os.fstat(stream.fileno()).st_nlink:
                    try:
                        stream.write(content)
                        stream.flush()
                        os.fsync(stream.fileno())
                        # Still locked, so that nobody removes the file as a leftover before it is renamed.
                        at, to = self._at(temporary), self._at(name)
                        os.replace(at, to, src_dir_fd=self.handle, dst_dir_fd=self.handle)
                    except BaseException:  # KeyboardInterrupt, too
                        self.remove(temporary)
                        raise
                    is_written = True
        self.sync()  # without it, a power failure could undo the renaming

    def remove(self, name: str) -> None:
        """Remove a file, if it exists; of a link the link itself.

        Args:
            name: name in this directory.
        """
        with suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self.handle)

    def names(self) -> list[str]:
        """List the names of all entries."""
        return os.listdir(self.place if self.handle is None else self.handle)

    def scan(self) -> list[tuple[str, bool]]:
        """List all entries, each with whether it is a directory (links are not)."""
        with os.scandir(self.place if self.handle is None else self.handle) as entries:
            return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]

    def make(self, name: str) -> bool:
        """Create a directory in this one.

        Args:
            name: name in this directory.

        Returns:
            Whether it was created; False if an entry of that name exists.
        """
        try:
            # mkdir creates the directory or fails, also if several machines try at once: `claim` relies on it.
            os.mkdir(self._at(name), dir_fd=self.handle)
        except FileExistsError:
            return False
        return True

    def sync(self) -> None:
        """Flush the names in this directory to disk, where the system allows it."""
        if self.handle is not None:
            os.fsync(self.handle)

    def _descriptor(self, name: str, flags: int) -> int:
        self.check(name, "a file")
        descriptor = os.open(self._at(name), flags | _NO_LINKS, 0o666, dir_fd=self.handle)
        # Checked again on the open file: the entry may have changed since the first check.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise self._refused(name, "not a file", "a file")
        return descriptor

    def _at(self, name: str) -> str:
        # Relative to the handle, a name still leads into this directory if a parent is replaced by a link meanwhile.
        return name if self.handle is not None else f"{self.place}/{name}"

    def _refused(self, name: str, kind: str, wanted: str) -> Refused:
        advice = f"and {wanted} belongs there: remove it"
        if kind in ("a symbolic link", "a junction"):
            advice = "which is not followed: replace it by a copy of its target, or remove it"
        return Refused(errno.EINVAL, f"{self.place}/{name} is {kind}, {advice}")


def make_directory(directory: Path) -> None:
    """Create a directory and its parents where they are missing, and flush their names to disk.

    Args:
        directory: path of the directory.
    """
    if not directory.is_dir():
        make_directory(directory.parent)
        # Another worker may create it at the same moment.
        directory.mkdir(exist_ok=True)
        with Folder.at(directory.parent) as folder:
            folder.sync()


@cache
def _memory_bytes() -> int:
    """Memory of this machine; a huge number where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize
