"""A connection to a Ray cluster, or a Ray session of our own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from fipray.errors import UsageError


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
    try:
        with _handlers_kept():
            ray.init(address=where, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at {where!r}: {error}. Is the address right, and the token?"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _private_session() -> Iterator[None]:
    """A Ray session of our own on this machine. Ray puts a token on it; the environment is left as it was."""
    before = os.environ.get("RAY_AUTH_MODE")
    try:
        with _handlers_kept():
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
        with suppress(OSError):  # Ray makes the token readable to everybody on the machine
            (Path.home() / ".ray" / "auth_token").chmod(0o600)
        yield
    finally:
        ray.shutdown()
        if before is None:
            os.environ.pop("RAY_AUTH_MODE", None)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """ray.init sets a handler for SIGTERM; where there was one, it stays."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before not in (signal.SIG_DFL, None) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)
