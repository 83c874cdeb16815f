"""Causes of lost workers, extracted from Ray's exceptions and the workers' logs."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path

import ray.exceptions

from fipray.cluster.worker_actor import WorkerLocation
from fipray.execution.failures import in_a_line

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_BYTES = 50_000  # read from the end of a worker's log


def failure_cause(error: BaseException, location: WorkerLocation | None = None) -> str:
    """Describe why a worker was lost.

    Ray gives no machine-readable cause for most losses, so this matches the text of its messages (Ray 2.60).

    Args:
        error: exception that Ray raised for the worker's task.
        location: the worker's process; if it ran on this host, its log is searched for a crash.

    Returns:
        One line.
    """
    text = _COLOUR.sub("", str(error))
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return f"Ray killed its process because its node ran out of memory ({in_a_line(text.split('. ')[0])})"
    if isinstance(error, ray.exceptions.NodeDiedError) or "node has died" in text or "node was terminated" in text:
        return "its node was lost"
    if crash := _crash(location):
        return f"its process crashed: {crash}"
    if code := re.search(r"exit code (\d+)", text):
        return f"its process ended with exit code {code[1]}"
    if "End of file" in text or "connection error" in text or "Socket closed" in text:
        return "its process ended without a message (a crash, os._exit, a kill signal, or the host ran out of memory)"
    if "creation task" in text:
        return in_a_line(text.strip().splitlines()[-1])
    if detail := re.search(r"Worker exit detail: (.*)", text):
        return in_a_line(detail[1])
    return f"{type(error).__name__}: {in_a_line(text)}"


def _crash(location: WorkerLocation | None) -> str:
    """Report of Python's fault handler in the log; empty if there is none, or the log is on another host."""
    if location is None or not location.log_file or location.host != socket.gethostname():
        return ""
    with suppress(OSError):
        end = Path(location.log_file).read_bytes()[-_LOG_BYTES:].decode(errors="replace")
        if found := re.search(r"Fatal Python error: (.+)((?:\n.*){0,60})", end):
            frames = re.findall(r'File "([^"]+)", line (\d+)', found[2])
            # The innermost frame outside of installed libraries is the study's own.
            where = next((f"{file}:{line}" for file, line in frames if "/lib/python" not in file), "")
            return in_a_line(f"{found[1]}{f', at {where}' if where else ''}")
    return ""
