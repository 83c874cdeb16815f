"""Failures of jobs: exceptions as one-line messages, interruptions by signals, and exceptions in threads."""

from __future__ import annotations

import signal
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import fipray
from fipray.errors import FiprayError, RunError
from fipray.networks.compute import is_out_of_memory

LONGEST = 600  # characters of an exception's message
# Frames below these folders are not the user's own code.
_LIBRARIES = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
_OWN = Path(fipray.__file__).parent
_NO_MEMORY = (
    ". Passes of many inputs are halved by themselves when memory runs out, so it is one input, or the weights and the "
    "stepper's copies of them, that do not fit: use fewer workers on each device or one with more memory, let fewer "
    "weights move (moving=), or take smaller batches where BatchNorm uses their statistics (batch_size)"
)


def sentence_of(error: BaseException) -> str:
    """Describe an exception in one line: its type, its message, and the line of the user's own code that raised it.

    Never raises, whatever the methods of the exception do.

    Args:
        error: the exception.

    Returns:
        The line; for a `FiprayError` just its message.
    """
    if isinstance(error, FiprayError):
        return str(error)
    advice = ""
    try:
        message = in_a_line(str(error))
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            advice = _NO_MEMORY
    except BaseException as second:  # the __str__ of a user's exception may raise anything
        message = f"its message cannot be shown, because its __str__ raised {type(second).__name__}"
    # The last line of a user's traceback is often deep in torch, and says nothing of which objective or attack failed.
    place = _place(error)
    return f"{type(error).__name__}{f': {message}' if message else ''}{f', raised at {place}' if place else ''}{advice}"


def in_a_line(text: str) -> str:
    """Put a text on one line, and shorten it.

    Args:
        text: any text.

    Returns:
        The text without line breaks, with `?` for control characters; the beginning and the end of a text longer than
        `LONGEST` characters.
    """
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 5]} ... {line[-LONGEST * 3 // 5 :]}"


def _place(error: BaseException) -> str:
    """Innermost frame outside of libraries, as FILE:LINE; the innermost of all where every frame is in a library."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if not _is_of_a_library(file)]
    file, line = (own or frames or [("", 0)])[-1]
    return f"{file}:{line}" if file else ""


def _is_of_a_library(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(_OWN) or any(path.is_relative_to(folder) for folder in _LIBRARIES)


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Notice signals, such as that of Ctrl-C, whose handlers raise an exception.

    This separates a KeyboardInterrupt or SystemExit raised by the code of a study, which fails one job, from one that
    the user or the system asked for, which ends the run.

    Yields:
        A function that returns True once a handler of SIGINT or SIGTERM has raised. Always False outside of the main
        thread, where Python runs no signal handlers.
    """
    received: list[int] = []

    def noticed(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            # Only what a handler raises ends a run: one that returns, such as a study's own, has dealt with the signal.
            except BaseException:
                received.append(number)
                raise

        return handle

    before: dict[signal.Signals, Any] = {}
    # Python lets only the main thread set signal handlers.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # Not callable where a signal is ignored or left to the system, and then it raises nothing.
            if callable(handler := signal.getsignal(number)):
                before[number] = handler
                signal.signal(number, noticed(handler))
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def threads_watched(log: Any) -> Iterator[None]:
    """Notice exceptions that end threads.

    Python only prints them, so the job would count as done. Threads that ran before are not watched.

    Args:
        log: text stream for the tracebacks.

    Yields:
        None.

    Raises:
        RunError: at the end, if a thread started meanwhile has ended with an exception.
    """
    older, before, raised = set(threading.enumerate()), threading.excepthook, list[str]()

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.thread in older or arguments.exc_value is None or issubclass(arguments.exc_type, SystemExit):
            before(arguments)
            return
        raised.append(sentence_of(arguments.exc_value))
        traceback.print_exception(arguments.exc_value, file=log)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
    # After the context, not in `finally`: an exception of the job itself takes precedence.
    if raised:
        raise RunError(f"a thread that the job had started ended with {raised[0]}")
