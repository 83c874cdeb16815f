"""Listeners, which follow a run, and sinks, which receive the rows of committed jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from fipray.execution.jobs import Job, JobSpec, Tables
from fipray.records import Store

SHOWN = ("paths", "points", "robustness", "trials")  # tables that sinks show


@runtime_checkable
class Listener(Protocol):
    """Observer of a run. All methods are called by the process and thread that drive it."""

    def doing(self, sentence: str) -> None:
        """Handle a report of what happens while no job runs, before the first and between jobs.

        Args:
            sentence: a few words, such as "verifying the files of earlier runs".
        """
        ...

    def begin(self, study: str, waiting: Sequence[JobSpec], done: int) -> None:
        """Handle the beginning of a run, before its first job.

        Args:
            study: name of the study.
            waiting: the jobs that remain. Of a search, the path of each trial as the study has it: values are drawn
                when a trial begins.
            done: number of jobs that earlier runs have committed.
        """
        ...

    def started(self, job: Job, where: str) -> None:
        """Handle the beginning of an attempt.

        Args:
            job: the attempt.
            where: name of the worker.
        """
        ...

    def progressed(self, job: Job, step: int) -> None:
        """Handle a report of how far a path is; called from time to time.

        Args:
            job: the attempt.
            step: last step that is known to be over; may repeat.
        """
        ...

    def stage(self, job: Job, stage: str) -> None:
        """Handle a report of what a job is doing besides steps; called from time to time.

        Args:
            job: the attempt.
            stage: a few words, such as the attack that it runs and the number of its forward passes; empty for a path
                that walks.
        """
        ...

    def committed(self, job: Job, tables: Tables) -> None:
        """Handle the rows of a committed job; not called where another run has committed it first.

        Args:
            job: the attempt.
            tables: its rows.
        """
        ...

    def finished(self, job: Job, sentence: str, seconds: float) -> None:
        """Handle the success of a job.

        Args:
            job: the attempt.
            sentence: its result in one line.
            seconds: time since the attempt began.
        """
        ...

    def failed(self, job: Job, reason: str) -> None:
        """Handle the failure of a job, after its last attempt.

        Args:
            job: the last attempt; of a job that was never begun, number 0.
            reason: why, in a sentence.
        """
        ...

    def note(self, sentence: str) -> None:
        """Handle whatever else users should know, such as the loss of a worker.

        Args:
            sentence: one line.
        """
        ...


@runtime_checkable
class Sink(Protocol):
    """Receiver of the rows of committed jobs, such as an experiment tracker."""

    @property
    def name(self) -> str:
        """Name in messages."""
        ...

    def write(self, tables: Tables) -> None:
        """Write rows.

        Args:
            tables: rows of one job or of several. Paths that the sink already has, from this run or an earlier one,
                are skipped.
        """
        ...


@runtime_checkable
class FinishingSink(Sink, Protocol):
    """Sink that also takes part in the end of a run, such as with a table of all results."""

    def finish(self) -> None:
        """Write what is known only when all jobs are done."""
        ...


class Silent:
    """Listener that does nothing."""

    def doing(self, sentence: str) -> None:
        pass

    def begin(self, study: str, waiting: Sequence[JobSpec], done: int) -> None:
        pass

    def started(self, job: Job, where: str) -> None:
        pass

    def progressed(self, job: Job, step: int) -> None:
        pass

    def stage(self, job: Job, stage: str) -> None:
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
    """Listener that passes every call on to several others, and rows to sinks.

    A sink that raises is dropped with a note, and the run goes on.

    Args:
        listeners: called in this order.
        sinks: written to after the listeners.
    """

    def __init__(self, listeners: Sequence[Listener], sinks: Sequence[Sink] = ()) -> None:
        self._listeners = tuple(listeners)
        self._sinks = list(sinks)

    def doing(self, sentence: str) -> None:
        for listener in self._listeners:
            listener.doing(sentence)

    def begin(self, study: str, waiting: Sequence[JobSpec], done: int) -> None:
        for listener in self._listeners:
            listener.begin(study, waiting, done)

    def started(self, job: Job, where: str) -> None:
        for listener in self._listeners:
            listener.started(job, where)

    def progressed(self, job: Job, step: int) -> None:
        for listener in self._listeners:
            listener.progressed(job, step)

    def stage(self, job: Job, stage: str) -> None:
        for listener in self._listeners:
            listener.stage(job, stage)

    def committed(self, job: Job, tables: Tables) -> None:
        for listener in self._listeners:
            listener.committed(job, tables)
        self.write(tables)

    def end(self, store: Store) -> None:
        """Write the results of a whole directory to the sinks, which have not seen those of earlier runs.

        Args:
            store: results directory, all of whose jobs are done.
        """
        if self._sinks:
            self.write({name: table.to_pylist() for name, table in store.read_tables(SHOWN).items()})
        self._with_sinks(lambda sink: sink.finish() if isinstance(sink, FinishingSink) else None)

    def write(self, tables: Tables) -> None:
        """Write rows to the sinks alone.

        Args:
            tables: rows of one job or of several.
        """
        self._with_sinks(lambda sink: sink.write(tables))

    def _with_sinks(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):  # a copy, because sinks that fail are removed
            try:
                call(sink)
            except Exception as error:  # a full disk or a server that is down must not end the run
                self._sinks.remove(sink)
                self.note(f"{sink.name} receives no more rows, because it failed: {type(error).__name__}: {error}")

    def finished(self, job: Job, sentence: str, seconds: float) -> None:
        for listener in self._listeners:
            listener.finished(job, sentence, seconds)

    def failed(self, job: Job, reason: str) -> None:
        for listener in self._listeners:
            listener.failed(job, reason)

    def note(self, sentence: str) -> None:
        for listener in self._listeners:
            listener.note(sentence)
