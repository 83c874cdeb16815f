"""Logs of attempts: printed output, warnings and log messages, as a file in the results directory."""

from __future__ import annotations

import logging
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from fipray.errors import RecordsError
from fipray.execution.failures import threads_watched
from fipray.execution.jobs import Job
from fipray.printable import without_credentials
from fipray.records import Store

MOST_CHARACTERS = 200_000  # of the end of a log, where the traceback is

_logger = logging.getLogger("fipray")


@contextmanager
def logged(store: Store, job: Job, where: str) -> Iterator[None]:
    """Copy output to the log of an attempt while the context is open.

    The log holds printed output and warnings, which also go where they went before, and messages of the logger
    `fipray`. It is written once, at the end; after an exception with the traceback. An attempt that is killed leaves no
    log.

    Args:
        store: results directory.
        job: the attempt.
        where: device and host, for the first line of the log.

    Yields:
        None.

    Raises:
        RunError: if a thread that was started meanwhile has ended with an exception.
    """
    text = _Text()
    began = time.perf_counter()
    with _reported(text):
        _logger.info("%s, attempt %d, %s", job.label, job.attempt, where)
        try:
            with (
                warnings.catch_warnings(),  # which forgets warnings already given, so that each attempt gives its own
                redirect_stdout(cast(TextIO, _Tee(sys.stdout, text))),
                redirect_stderr(cast(TextIO, _Tee(sys.stderr, text))),
                threads_watched(text),
            ):
                yield
        except BaseException:
            text.write(traceback.format_exc())
            raise
        finally:
            _logger.info("over after %.1f s", time.perf_counter() - began)
            with suppress(RecordsError):  # the result of a job counts even if its log cannot be written
                # Printed text may hold addresses with passwords, and results directories are passed on.
                store.write_log(job.id, job.attempt, without_credentials(text))


@contextmanager
def _reported(text: _Text) -> Iterator[None]:
    handler = logging.StreamHandler(cast(TextIO, text))
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s"))
    # The level is lowered only while an attempt runs, so that an application's own settings hold otherwise.
    level = _logger.level
    _logger.setLevel(logging.INFO)
    _logger.addHandler(handler)
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(level)


class _Text:
    """Text stream that keeps the last `MOST_CHARACTERS` written to it."""

    def __init__(self) -> None:
        self._parts: deque[str] = deque()
        self._length = 0
        self._is_cut = False

    def write(self, text: str) -> None:
        self._is_cut = self._is_cut or len(text) > MOST_CHARACTERS
        self._parts.append(text[-MOST_CHARACTERS:])
        self._length += len(self._parts[-1])
        while self._length > MOST_CHARACTERS and len(self._parts) > 1:
            self._length -= len(self._parts.popleft())
            self._is_cut = True

    def flush(self) -> None:
        pass

    def __str__(self) -> str:
        whole = "".join(self._parts)
        is_cut = self._is_cut or len(whole) > MOST_CHARACTERS
        return ("[the beginning is cut off: the log was too long]\n" if is_cut else "") + whole[-MOST_CHARACTERS:]


class _Tee:
    """Text stream that writes to another stream and to a text."""

    def __init__(self, stream: TextIO, text: _Text) -> None:
        self._stream, self._text = stream, text

    def write(self, text: str) -> int:
        self._text.write(text)
        with suppress(OSError, ValueError):  # a full disk or a closed stream must not end a path
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    # Code that prints may ask for more of sys.stdout, such as `isatty` or `encoding`.
    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
