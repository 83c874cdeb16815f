"""Who is told how a run goes on: a watch of everything, a sink of rows, and several of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fipray.study.work import Tables, Work


@runtime_checkable
class Watch(Protocol):
    """Is told how a run goes on."""

    def begin(self, study: str, total: int, done: int) -> None: ...
    def started(self, work: Work, where: str) -> None: ...
    def walked(self, work: Work, step: int) -> None: ...
    def committed(self, work: Work, tables: Tables) -> None: ...
    def finished(self, work: Work, sentence: str, seconds: float) -> None: ...
    def failed(self, work: Work, reason: str) -> None: ...
    def note(self, sentence: str) -> None: ...


@runtime_checkable
class Sink(Protocol):
    """Is given the rows of work that is committed, to show them elsewhere."""

    @property
    def name(self) -> str: ...

    def write(self, tables: Tables) -> None:
        """Rows by table. Those of a path that it was given before, now or in an earlier run, are passed over."""
        ...


class Quiet:
    """A watch that says nothing."""

    def begin(self, study: str, total: int, done: int) -> None:
        pass

    def started(self, work: Work, where: str) -> None:
        pass

    def walked(self, work: Work, step: int) -> None:
        pass

    def committed(self, work: Work, tables: Tables) -> None:
        pass

    def finished(self, work: Work, sentence: str, seconds: float) -> None:
        pass

    def failed(self, work: Work, reason: str) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass


class Watches:
    """Tells several watches, and gives rows to sinks. A sink that fails is told no more; the run goes on."""

    def __init__(self, watches: Sequence[Watch], sinks: Sequence[Sink] = ()) -> None:
        self._watches = tuple(watches)
        self._sinks = list(sinks)

    def begin(self, study: str, total: int, done: int) -> None:
        for watch in self._watches:
            watch.begin(study, total, done)

    def started(self, work: Work, where: str) -> None:
        for watch in self._watches:
            watch.started(work, where)

    def walked(self, work: Work, step: int) -> None:
        for watch in self._watches:
            watch.walked(work, step)

    def committed(self, work: Work, tables: Tables) -> None:
        for watch in self._watches:
            watch.committed(work, tables)
        self.write(tables)

    def write(self, tables: Tables) -> None:
        """Rows for the sinks alone."""
        for sink in list(self._sinks):
            try:
                sink.write(tables)
            except Exception as error:  # a full disk or a server that is down must not end the run
                self._sinks.remove(sink)
                self.note(f"{sink.name} is given no more rows, because it failed: {type(error).__name__}: {error}")

    def finished(self, work: Work, sentence: str, seconds: float) -> None:
        for watch in self._watches:
            watch.finished(work, sentence, seconds)

    def failed(self, work: Work, reason: str) -> None:
        for watch in self._watches:
            watch.failed(work, reason)

    def note(self, sentence: str) -> None:
        for watch in self._watches:
            watch.note(sentence)
