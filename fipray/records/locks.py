"""Advisory locks between processes, on open files; the system releases them when the holder closes the file or dies."""

import time
from typing import BinaryIO

import portalocker

from fipray.errors import RecordsError

PATIENCE_SECONDS = 60.0


def lock_now(stream: BinaryIO) -> bool:
    """Try to lock an open file exclusively, without waiting.

    Args:
        stream: open file.

    Returns:
        Whether the file is now locked; False if another holder has it.

    Raises:
        OSError: if the file system has no locks.
    """
    try:
        portalocker.lock(stream, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    # Before LockException, of which it is a subclass.
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        raise OSError(f"it cannot be locked ({error})") from error
    return True


def lock(stream: BinaryIO, name: str) -> None:
    """Lock an open file exclusively, waiting up to `PATIENCE_SECONDS`.

    Args:
        stream: open file.
        name: name of the file, for the message.

    Raises:
        RecordsError: if another process held the lock all the time.
        OSError: if the file system has no locks.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    # Polling, as a blocking lock has no timeout. Locks are held for moments only.
    while not lock_now(stream):
        if time.monotonic() > deadline:
            raise RecordsError(
                f"another process has held {name} for {PATIENCE_SECONDS:g} s. End it and run the same command again"
            )
        time.sleep(0.01)
