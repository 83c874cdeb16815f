"""Exceptions that fipray raises on purpose.

    FiprayError
    ├── UsageError          wrong use: a bad argument, an unknown name, a directory of another study
    │   ├── NetworkError    a module that cannot be used as a network
    │   ├── DataError       inputs or labels that cannot be used: NaN, wrong shapes, labels outside the classes
    │   └── MissingPackageError     a package that an extra of fipray would have installed
    ├── RecordsError        a results directory that cannot be read or written
    │   └── CorruptFileError    a file in it that is truncated or altered
    └── RunError            correct use, but the work failed while it ran
        └── ClusterLostError    the cluster's control process is gone; the same command resumes once there is a new one

The command line exits with status 2 for UsageError and RecordsError, and with status 1 for RunError.
"""

from fipray.printable import printable_lines, without_credentials


class FiprayError(Exception):
    """Base class of all exceptions that fipray raises on purpose.

    Args:
        *arguments: the message first. In strings, control characters are escaped and credentials in addresses removed,
            so that a message can be shown anywhere, whatever text of users or libraries it quotes.
    """

    def __init__(self, *arguments: object) -> None:
        # Unpickling calls this again, on arguments that it leaves as they are then.
        super().__init__(
            *(printable_lines(without_credentials(one)) if isinstance(one, str) else one for one in arguments)
        )


class UsageError(FiprayError, ValueError):
    """Wrong use, also a ValueError. The message says what was wrong, what was found, and what to do."""


class NetworkError(UsageError):
    """A module that cannot be used as a pure function of its weights."""


class DataError(UsageError):
    """Inputs or labels that cannot be used."""


class MissingPackageError(UsageError, ImportError):
    """A package that is not installed, also an ImportError. The message has the command that installs it.

    Args:
        message: the message.
        name: name of the package.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class RecordsError(FiprayError):
    """A results directory that cannot be read or written."""


class CorruptFileError(RecordsError):
    """A file of a results directory that is truncated, altered or missing."""


class RunError(FiprayError):
    """Work that failed while it ran, although it was requested correctly."""


class ClusterLostError(RunError):
    """A run whose cluster cannot be reached any more. Finished work is in the results directory."""
