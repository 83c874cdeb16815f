"""A connection to a Ray cluster, or a Ray session of our own."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import ray

from fipray.cluster.token import keep_token_private
from fipray.errors import ClusterLostError, UsageError

LEAVING_SECONDS, ENDING_SECONDS = 2.0, 9.0  # without its control process a session of our own takes seven to end


def address_of(address: str | None) -> str:
    """Where the cluster is: as given, or as RAY_ADDRESS says, as in a Ray job; else "local", a session of our own."""
    return address or os.environ.get("RAY_ADDRESS") or "local"


def is_to_be_started(address: str | None) -> bool:
    """Whether there is no session yet, and it will be one of our own."""
    return address_of(address) == "local" and not ray.is_initialized()


@contextmanager
def session(address: str | None) -> Iterator[None]:
    """A connection to the cluster; the one that is there already, where there is one. Raises UsageError."""
    if ray.is_initialized():
        yield
        return
    where = address_of(address)
    if where == "local":
        with _private_session():
            yield
        return
    _check_listens(where)
    try:
        with _handlers_kept():
            ray.init(address=where, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at {where!r}: {error}. Is the address right, and the token?"
        ) from error
    with _left_at_the_end(LEAVING_SECONDS):
        yield


@contextmanager
def _private_session() -> Iterator[None]:
    """A Ray session of our own on this machine. Ray puts a token on it; the environment is left as it was."""
    before = os.environ.get("RAY_AUTH_MODE")
    keep_token_private()
    try:
        with _left_at_the_end(ENDING_SECONDS):
            try:
                with _handlers_kept():
                    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
            except Exception as error:  # of any class: files, sockets, and a plain Exception where a process is late
                raise UsageError(_why_not_started(error)) from error
            yield
    finally:
        if before is None:
            os.environ.pop("RAY_AUTH_MODE", None)


def _why_not_started(error: Exception) -> str:
    """What keeps Ray from starting on this machine, and the way out, as a sentence."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    folder, home = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), str(Path.home())
    file = str(getattr(error, "filename", None) or "")
    if "AF_UNIX path length" in said:
        way_out = f"the temporary folder {folder} has too long a name for Ray's sockets: set RAY_TMPDIR=/tmp"
    elif isinstance(error, OSError) and f"{file}/".startswith(f"{home}/"):
        way_out = f"Ray keeps its token in the home directory {home}: set HOME to a folder that can be written"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        way_out = f"there is no space left: free some in {folder} and /dev/shm, or set RAY_TMPDIR to another folder"
    elif isinstance(error, OSError) and file:
        way_out = f"Ray keeps its files in {folder}: set RAY_TMPDIR to a short folder that can be written"
    else:
        way_out = (
            f"the machine may be overloaded, or short of memory or ports: see the logs in {folder}/ray/session_latest/"
            "logs, and run the same command again when it is less busy"
        )
    return f"Ray could not start on this machine ({said}); {way_out}, or do without Ray: --runner local"


@contextmanager
def _left_at_the_end(seconds: float) -> Iterator[None]:
    """Shut Ray down at the end. Where its control process is gone that waits for many answers that never come, so it is
    left to a thread after so many seconds.
    """
    try:
        with _silent_about_workers():
            yield
    except ClusterLostError:
        leaving = threading.Thread(target=ray.shutdown, daemon=True)
        leaving.start()
        leaving.join(seconds)
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


@contextmanager
def _silent_about_workers() -> Iterator[None]:
    """Have Ray print no paragraph for every worker that is lost: the run says so in a line. It has no switch for it."""
    worker = ray._private.worker
    before = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _check_listens(address: str) -> None:
    """Raises UsageError where the connection is refused: Ray itself asks again for minutes."""
    host = urlsplit(f"//{address.removeprefix('ray://')}")
    try:
        if host.hostname and host.port:
            socket.create_connection((host.hostname, host.port), timeout=5).close()
    except ConnectionRefusedError as error:
        raise UsageError(
            f"no Ray cluster answers at {address!r}: nothing listens there. Start Ray there, or name another address"
        ) from error
    except (OSError, ValueError):
        pass  # Ray says more of it


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """ray.init sets a handler for SIGTERM; where there was one, it stays."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before not in (signal.SIG_DFL, None) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
