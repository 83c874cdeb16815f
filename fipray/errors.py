"""Every exception that fipray raises on purpose.

    FiprayError
    ├── UsageError          wrong use: a bad argument, an unknown name, a directory of another study
    │   ├── NetworkError    a module that cannot be used as a network
    │   └── DataError       inputs or labels that cannot be used: NaN, wrong shapes, labels outside the classes
    ├── RecordsError        a results directory that cannot be read or written
    │   └── CorruptFileError    a file in it that is truncated or altered
    └── RunError            work that was asked for correctly and failed while it ran
        └── ClusterLostError    the cluster's control process is gone; the same command goes on once there is one

The command line ends with status 2 for UsageError and RecordsError, and with status 1 for RunError.
"""

from fipray.printable import printable_lines, without_credentials


class FiprayError(Exception):
    """What every exception raised on purpose is. Its message can be shown anywhere, whatever was put into it."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(
            *(printable_lines(without_credentials(one)) if isinstance(one, str) else one for one in arguments)
        )


class UsageError(FiprayError, ValueError):
    """Wrong use. The message says what was wrong, what was there, and what to do."""


class NetworkError(UsageError):
    """A module that cannot be used as a pure function of its weights."""


class DataError(UsageError):
    """Inputs or labels that cannot be used."""


class RecordsError(FiprayError):
    """A results directory that cannot be read or written."""


class CorruptFileError(RecordsError):
    """A file of a results directory that is truncated, altered or missing."""


class RunError(FiprayError):
    """Work that was asked for correctly and failed while it ran."""


class ClusterLostError(RunError):
    """The cluster that a run is on cannot be reached any more. What is done is kept."""
