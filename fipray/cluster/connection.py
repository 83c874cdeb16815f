"""Connection to a Ray cluster, or a private Ray session on this machine."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import ray
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

from fipray.errors import ClusterLostError, UsageError

# For `ray.shutdown` when the control process is gone; a private session, whose processes it ends, takes about seven.
LEAVE_SECONDS, STOP_SECONDS = 2.0, 9.0


def resolve_address(address: str | None) -> str:
    """Resolve the address of a Ray cluster.

    Args:
        address: address as Ray takes it; None for RAY_ADDRESS, which Ray jobs set.

    Returns:
        The address; "local", a private session on this machine, if none is given anywhere.
    """
    return address or os.environ.get("RAY_ADDRESS") or "local"


def starts_session(address: str | None) -> bool:
    """Check whether `connect` would start a private session.

    Args:
        address: as for `resolve_address`.

    Returns:
        False if Ray is already initialized in this process, or if the address is that of a cluster.
    """
    return resolve_address(address) == "local" and not ray.is_initialized()


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start a private session, inside this context.

    If Ray is already initialized in this process, that connection is used, and left open at the end.

    Args:
        address: as for `resolve_address`.

    Yields:
        Nothing.

    Raises:
        UsageError: if no cluster answers, or Ray cannot start here.
    """
    if ray.is_initialized():
        yield
        return
    resolved = resolve_address(address)
    if resolved == "local":
        with _private_session():
            yield
        return
    _check_listens(resolved)  # ray.init would retry for minutes
    try:
        with _signal_handler_kept():
            ray.init(address=resolved, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"could not connect to a Ray cluster at {resolved!r}: {error}. Check the address and the token"
        ) from error
    with _shut_down_at_end(LEAVE_SECONDS):
        yield


def secure_token_file() -> None:
    """Make sure that only the user can read their Ray token file, creating it if necessary. Call before Ray starts.

    Ray itself creates `~/.ray/auth_token` readable by every user of the machine. No file is created if the token comes
    from elsewhere. If the home directory cannot be written, Ray reports that itself.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = Path.home() / ".ray" / "auth_token"
    with suppress(OSError, RuntimeError):
        if file.exists():
            file.chmod(0o600)
        elif not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
            file.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                stream.write(generate_new_authentication_token())


@contextmanager
def _private_session() -> Iterator[None]:
    """Private Ray session, behind a token."""
    before = os.environ.get("RAY_AUTH_MODE")
    secure_token_file()
    try:
        with _shut_down_at_end(STOP_SECONDS):
            try:
                with _signal_handler_kept():
                    _start()
            except Exception as error:  # of any class: from files, sockets, or a plain Exception after a timeout
                raise UsageError(_why_not_started(error)) from error
            yield
    finally:
        if before is None:  # a local ray.init sets the variable for good
            os.environ.pop("RAY_AUTH_MODE", None)


def _start() -> None:
    """Start Ray, once more where it was too slow: its limit of 30 seconds is fixed, and a busy machine is slower."""
    for is_last in (False, True):
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
            return
        except Exception as error:  # a plain one, or of another class, by the process that was late
            if is_last or "timed out" not in str(error):
                raise
            ray.shutdown()


def _why_not_started(error: Exception) -> str:
    """Explain why Ray cannot start on this machine, and the remedy."""
    message = (str(error).strip().splitlines() or [type(error).__name__])[0]
    folder, home = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), str(Path.home())
    file = str(getattr(error, "filename", None) or "")
    if "AF_UNIX path length" in message:
        remedy = f"the path of the temporary folder {folder} is too long for Ray's sockets: set RAY_TMPDIR=/tmp"
    elif isinstance(error, OSError) and f"{file}/".startswith(f"{home}/"):
        remedy = f"Ray keeps its token in the home directory {home}: set HOME to a writable folder"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        remedy = f"there is no space left: free some in {folder} and /dev/shm, or set RAY_TMPDIR to another folder"
    elif isinstance(error, OSError) and file:
        remedy = f"Ray keeps its files in {folder}: set RAY_TMPDIR to a writable folder with a short path"
    else:
        remedy = (
            f"the machine may be overloaded, or short of memory or ports: see the logs in {folder}/ray/session_latest/"
            "logs, and run the same command again when it is less busy"
        )
    return f"Ray could not start on this machine ({message}); {remedy}, or run without Ray: --runner local"


@contextmanager
def _shut_down_at_end(seconds: float) -> Iterator[None]:
    """Shut Ray down at the end. Without a control process that waits for answers in vain, so it gets `seconds` then."""
    try:
        with _worker_messages_muted():
            yield
    except ClusterLostError:
        thread = threading.Thread(target=ray.shutdown, daemon=True)
        thread.start()
        thread.join(seconds)
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


@contextmanager
def _worker_messages_muted() -> Iterator[None]:
    """Mute the paragraph that Ray prints for every lost worker: the run reports a line. Ray has no option for it."""
    worker = ray._private.worker
    before = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def _check_listens(address: str) -> None:
    """Raise UsageError if the connection is refused."""
    url = urlsplit(f"//{address.removeprefix('ray://')}")
    try:
        if url.hostname and url.port:
            socket.create_connection((url.hostname, url.port), timeout=5).close()
    except ConnectionRefusedError as error:
        raise UsageError(
            f"could not connect to a Ray cluster at {address!r}: the connection is refused. Start Ray there, or give "
            "another address"
        ) from error
    except (OSError, ValueError):
        pass  # Ray's own message says more


@contextmanager
def _signal_handler_kept() -> Iterator[None]:
    """Restore a SIGTERM handler, which ray.init replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before not in (signal.SIG_DFL, None) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
