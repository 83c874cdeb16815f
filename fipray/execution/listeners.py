"""Who is told how a run goes on: a watch of everything, a sink of rows, and several of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fipray.execution.jobs import Job, Tables


@runtime_checkable
class Listener(Protocol):
    """Is told how a run goes on."""

    def begin(self, study: str, total: int, done: int) -> None: ...
    def started(self, job: Job, where: str) -> None: ...
    def walked(self, job: Job, step: int) -> None: ...
    def committed(self, job: Job, tables: Tables) -> None: ...
    def finished(self, job: Job, sentence: str, seconds: float) -> None: ...
    def failed(self, job: Job, reason: str) -> None: ...
    def note(self, sentence: str) -> None: ...


@runtime_checkable
class Sink(Protocol):
    """Is given the rows of work that is committed, to show them elsewhere."""

    @property
    def name(self) -> str: ...

    def write(self, tables: Tables) -> None:
        """Rows by table. Those of a path that it was given before, now or in an earlier run, are passed over."""
        ...


class Silent:
    """A watch that says nothing."""

    def begin(self, study: str, total: int, done: int) -> None:
        pass

    def started(self, job: Job, where: str) -> None:
        pass

    def walked(self, job: Job, step: int) -> None:
        pass

    def committed(self, job: Job, tables: Tables) -> None:
        pass

    def finished(self, job: Job, sentence: str, seconds: float) -> None:
        pass

    def failed(self, job: Job, reason: str) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass


class Listeners:
    """Tells several watches, and gives rows to sinks. A sink that fails is told no more; the run goes on."""

    def __init__(self, listeners: Sequence[Listener], sinks: Sequence[Sink] = ()) -> None:
        self._watches = tuple(listeners)
        self._sinks = list(sinks)

    def begin(self, study: str, total: int, done: int) -> None:
        for listener in self._watches:
            listener.begin(study, total, done)

    def started(self, job: Job, where: str) -> None:
        for listener in self._watches:
            listener.started(job, where)

    def walked(self, job: Job, step: int) -> None:
        for listener in self._watches:
            listener.walked(job, step)

    def committed(self, job: Job, tables: Tables) -> None:
        for listener in self._watches:
            listener.committed(job, tables)
        self.write(tables)

    def write(self, tables: Tables) -> None:
        """Rows for the sinks alone."""
        for sink in list(self._sinks):
            try:
                sink.write(tables)
            except Exception as error:  # a full disk or a server that is down must not end the run
                self._sinks.remove(sink)
                self.note(f"{sink.name} is given no more rows, because it failed: {type(error).__name__}: {error}")

    def finished(self, job: Job, sentence: str, seconds: float) -> None:
        for listener in self._watches:
            listener.finished(job, sentence, seconds)

    def failed(self, job: Job, reason: str) -> None:
        for listener in self._watches:
            listener.failed(job, reason)

    def note(self, sentence: str) -> None:
        for listener in self._watches:
            listener.note(sentence)
