"""What Ray says of lost workers, in one line."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path

import ray.exceptions

from fipray.cluster.place import Place
from fipray.execution.failures import in_a_line

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_BYTES = 50_000  # of the end of a worker's log


def cause_of(error: BaseException, place: Place | None = None) -> str:
    """Why a worker was lost, as far as Ray and, on this machine, the last lines of the worker's log tell."""
    text = _COLOUR.sub("", str(error))
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return f"Ray ended its process, because the memory of its node ran out ({in_a_line(text.split('. ')[0])})"
    if isinstance(error, ray.exceptions.NodeDiedError) or "node has died" in text or "node was terminated" in text:
        return "its node was lost"
    if crash := _crash(place):
        return f"its process crashed: {crash}"
    if code := re.search(r"exit code (\d+)", text):
        return f"its process ended with exit code {code[1]}"
    if "End of file" in text or "connection error" in text or "Socket closed" in text:
        return "its process ended without a word (a crash, os._exit, a kill, or no memory left on its machine)"
    if "creation task" in text:
        return in_a_line(text.strip().splitlines()[-1])
    if detail := re.search(r"Worker exit detail: (.*)", text):
        return in_a_line(detail[1])
    return f"{type(error).__name__}: {in_a_line(text)}"


def _crash(place: Place | None) -> str:
    """What Python wrote into the log as it crashed; empty where it did not, or the log is on another machine."""
    if place is None or not place.log_file or place.host != socket.gethostname():
        return ""
    with suppress(OSError):
        end = Path(place.log_file).read_bytes()[-_LOG_BYTES:].decode(errors="replace")
        if found := re.search(r"Fatal Python error: (.+)((?:\n.*){0,60})", end):
            frames = re.findall(r'File "([^"]+)", line (\d+)', found[2])
            where = next((f"{file}:{line}" for file, line in frames if "/lib/python" not in file), "")
            return in_a_line(f"{found[1]}{f', at {where}' if where else ''}")
    return ""
