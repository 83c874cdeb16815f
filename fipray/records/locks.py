"""Locks between processes, on open files. The system takes a lock back when its holder closes the file, or dies."""

import time
from typing import BinaryIO

import portalocker

from fipray.errors import RecordsError

PATIENCE_SECONDS = 60.0


def lock_now(stream: BinaryIO) -> bool:
    """Locks an open file for this process alone; False where another has locked it. Raises OSError."""
    try:
        portalocker.lock(stream, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
    except portalocker.AlreadyLocked:
        return False
    except portalocker.LockException as error:
        raise OSError(f"it cannot be locked ({error})") from error
    return True


def lock(stream: BinaryIO, name: str) -> None:
    """Waits until it has locked an open file. Raises RecordsError when patience ends, OSError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not lock_now(stream):
        if time.monotonic() > deadline:
            raise RecordsError(
                f"another process has held {name} for {PATIENCE_SECONDS:g} s. End it and run the same command again"
            )
        time.sleep(0.01)
