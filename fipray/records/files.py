"""Protocol of the files of a results directory, wherever it is."""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from fipray.errors import UsageError
from fipray.records.local import (
    LocalFiles as LocalFiles,
    check_place as check_place,
    write_whole as write_whole,
)


class Files(Protocol):
    """Files of one results directory, by names relative to it with forward slashes. All methods raise RecordsError."""

    @property
    def address(self) -> str:
        """Address of the directory for messages, without credentials."""
        ...

    @property
    def location(self) -> str:
        """Address that opens the directory, on every machine. It may contain credentials and is never shown."""
        ...

    @property
    def num_at_once(self) -> int:
        """Number of files that are best read concurrently."""
        ...

    def named(self, file: str) -> str:
        """Full name of a file, for messages.

        Args:
            file: file name relative to the directory.

        Returns:
            Path or address, without credentials.
        """
        ...

    def beside(self, name: str) -> tuple[str, Any]:
        """Place of a subdirectory that another library reads and writes.

        Args:
            name: name of the subdirectory.

        Returns:
            Its path, and the pyarrow file system that it is on; None for the local one.
        """
        ...

    def make(self) -> None:
        """Create the directory if it is missing."""
        ...

    def read(self, file: str) -> bytes:
        """Read a file.

        Args:
            file: file name.

        Returns:
            Content of the file.

        Raises:
            FileNotFoundError: if it does not exist.
        """
        ...

    def write(self, file: str, content: bytes) -> None:
        """Write a file atomically and durably, replacing an existing one.

        Args:
            file: file name; its directory is created if it is missing.
            content: content of the file.
        """
        ...

    def exists(self, file: str) -> bool:
        """Test whether a file exists.

        Args:
            file: file name.

        Returns:
            Whether it does.
        """
        ...

    def remove(self, file: str) -> None:
        """Remove a file, if it exists.

        Args:
            file: file name.
        """
        ...

    def names(self, directory: str) -> list[str]:
        """List a directory.

        Args:
            directory: name of the directory; "" for the results directory itself.

        Returns:
            Names of its files and directories, without temporary files; empty if it does not exist.
        """
        ...

    def claim(self, directory: str) -> bool:
        """Create a directory that did not exist. If several processes claim the same one, at most one succeeds.

        Args:
            directory: name of the directory.

        Returns:
            Whether this call created it.
        """
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Hold the directory's lock for writers. RecordsError if another process holds it for too long."""
        ...

    def remove_leftovers(self) -> None:
        """Remove unfinished files of writers that died."""
        ...


def files_at(directory: str | Path) -> Files:
    """Files of a directory or of an address in an object store.

    Args:
        directory: path, in which `~` stands for the home directory, or address such as s3://bucket/directory.

    Returns:
        `LocalFiles` or `ObjectFiles`.

    Raises:
        UsageError: for any other address.
    """
    check_place(directory)
    address = re.sub(r"^(\w+):/(?=[^/])", r"\1://", str(directory))  # a pathlib.Path leaves one slash of two
    if "://" not in address:
        return LocalFiles(_expanded(Path(directory)).absolute())  # workers have other working directories
    from fipray.records.objects import ObjectFiles  # imported here, as few need the file systems of pyarrow

    return ObjectFiles.at(address)


def _expanded(path: Path) -> Path:
    """Replace `~` or `~user` at the beginning of a path by that home directory."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path} begins with an unknown home directory: give the full path") from error
