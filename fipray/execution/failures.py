"""Why work failed, as a sentence, whatever was raised; and whether it was the user who interrupted it."""

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

LONGEST = 600  # characters of a message that is not ours
_LIBRARIES = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
_OWN = Path(fipray.__file__).parent


def sentence_of(error: BaseException) -> str:
    """What was raised, and the line of the study's own code that raised it, without a line break.

    An error of fipray's is its message. Never raises, whatever the exception's own methods do.
    """
    if isinstance(error, FiprayError):
        return str(error)
    try:
        said = in_a_line(str(error))
    except BaseException as second:  # an exception's own __str__ may raise anything
        said = f"its message cannot be shown, as its __str__ raised {type(second).__name__}"
    place = _place(error)
    return f"{type(error).__name__}{f': {said}' if said else ''}{f', raised at {place}' if place else ''}"


def in_a_line(text: str) -> str:
    """The text without line breaks and control characters; of a long one its beginning and its end."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 5]} ... {line[-LONGEST * 3 // 5 :]}"


def _place(error: BaseException) -> str:
    """The innermost frame that is not of a library, as FILE:LINE; of an error within a library, its innermost one."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if not _is_of_a_library(file)]
    file, line = (own or frames or [("", 0)])[-1]
    return f"{file}:{line}" if file else ""


def _is_of_a_library(file: str) -> bool:
    path = Path(file)
    return path.is_relative_to(_OWN) or any(path.is_relative_to(folder) for folder in _LIBRARIES)


@contextmanager
def interruptions() -> Iterator[Callable[[], bool]]:
    """Yield whether a signal has raised an exception here meanwhile, as Ctrl-C does.

    So a KeyboardInterrupt or SystemExit that the code of a study raises is told from one that the user or the system
    asked for. Where signals cannot come, outside of the main thread, the answer is no.
    """
    came: list[int] = []

    def noting(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except BaseException:
                came.append(number)
                raise

        return handle

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                before[number] = handler
                signal.signal(number, noting(handler))
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def threads_watched(log: Any) -> Iterator[None]:
    """Raise RunError at the end when a thread that was started meanwhile ended with an exception.

    Without this Python only prints it, and the work would count as done. Its traceback goes to the stream `log`.
    Threads that were there before are left alone.
    """
    there, before, raised = set(threading.enumerate()), threading.excepthook, list[str]()

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.thread in there or arguments.exc_value is None or issubclass(arguments.exc_type, SystemExit):
            before(arguments)
            return
        raised.append(sentence_of(arguments.exc_value))
        traceback.print_exception(arguments.exc_value, file=log)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
    if raised:
        raise RunError(f"a thread that it had started ended with {raised[0]}")
