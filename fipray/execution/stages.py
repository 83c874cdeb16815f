"""Stages: what long calls say they are doing, as messages of their loggers.

The mathematics, recipes and exports know no terminal and no heartbeats: they log at level INFO what they do, and
whoever shows it asks for these messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def staged(logger: str, say: Callable[[str], None]) -> Iterator[None]:
    """Pass on what is logged while the context is open.

    Args:
        logger: name of the logger, such as "fipray.robustness".
        say: called with each message, in the thread that logs it.

    Yields:
        None.
    """
    handler, heard = _Stages(say), logging.getLogger(logger)
    # The level is lowered only meanwhile, so that an application's own settings hold otherwise.
    level = heard.level
    heard.setLevel(min(heard.getEffectiveLevel(), logging.INFO))
    heard.addHandler(handler)
    try:
        yield
    finally:
        heard.removeHandler(handler)
        heard.setLevel(level)


class _Stages(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
