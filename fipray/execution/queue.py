"""Queue of a study: its jobs in dependency order, and the commits of their results."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fipray.errors import CorruptFileError, FiprayError, RunError
from fipray.execution import checkpoints
from fipray.execution.changed import Changed, opened
from fipray.execution.jobs import Artifact, Job, Payload, Tables
from fipray.execution.kinds import ARTIFACT_TABLES, artifacts_of, kind_for
from fipray.execution.listeners import Listener
from fipray.networks import copied
from fipray.records import Attempt, Store
from fipray.records.layout import log_file
from fipray.study.arrays import load_shared, state_arrays, to_tensor
from fipray.study.canonical import kind_of
from fipray.study.script import folders
from fipray.study.study import Study


class Queue:
    """Jobs of a study that are not committed yet, in dependency order; commits those that are done.

    The only writer of tables and commit records. Not thread-safe.

    Args:
        study: what to run.
        directory: path or address of the results directory; made where there is none. Its files are verified.
        listener: told about jobs and commits.
        changed: what to do where the directory was made by other versions of the user's own code: "stop", or "redo"
            the results that depend on it.

    Raises:
        UsageError: for a directory of another study, or made by other code where `changed` is "stop".
        CorruptFileError: for files that are missing, truncated or altered.
    """

    def __init__(self, study: Study, directory: str | Path, listener: Listener, changed: Changed = "stop") -> None:
        specs = study.specs
        listener.doing("opening the results directory")
        self.store = opened(directory, study.manifest, specs.keys(), changed)
        # In an object store only the tables: reading all weights would take long, and cost money.
        # Before any job begins: damaged weights would otherwise be found hours later, by a job that starts at them.
        listener.doing("verifying the files of earlier runs")
        self.store.verify(weights=self.store.is_near)
        self.payload = payload_of(study, self.store)
        self._listener = listener
        # Commits first: a job that another run commits between the two readings is waiting with its artifact at hand,
        # rather than neither of both, which would leave its dependents without a turn.
        committed = self.store.committed()
        self._artifacts = self._read_artifacts()
        self._num_jobs = len(specs)
        self._ids = {spec.produces: id for id, spec in specs.items() if spec.produces}
        self._waiting = {id: spec for id, spec in specs.items() if id not in committed}
        # By the order of the study, so that equal runs begin jobs in the same order, whatever their IDs are.
        self._order = {id: number for number, id in enumerate(specs)}
        self._ready: list[tuple[int, str]] = []  # a heap: jobs without open dependencies, in the order of the study
        self._num_open: dict[str, int] = {}  # unresolved dependencies of each job
        self._dependents: dict[str, list[str]] = {}  # jobs that wait for each dependency
        for id, spec in self._waiting.items():
            missing = {name for name in spec.dependencies if name not in self._artifacts}
            self._num_open[id] = len(missing)
            for name in missing:
                self._dependents.setdefault(name, []).append(id)
            if not missing:
                heapq.heappush(self._ready, (self._order[id], id))
        self._failed: dict[str, str] = {}  # reasons, by label
        self._lost: dict[str, str] = {}  # for each artifact that will never exist, the one whose job failed
        self._began: dict[str, float] = {}
        listener.begin(study.name, tuple(self._waiting.values()), len(specs) - len(self._waiting))

    @property
    def num_waiting(self) -> int:
        """Jobs that are neither begun, committed nor failed."""
        return len(self._waiting)

    def next(self, where: str) -> Job | None:
        """Begin the next job whose dependencies are resolved.

        Args:
            where: name of the worker, for the listener.

        Returns:
            First attempt of this run at the job; None where no job is ready at the moment. Jobs that depend on a
            failed one are marked failed on the way.
        """
        while self._ready:
            _, id = heapq.heappop(self._ready)
            spec = self._waiting.pop(id, None)
            if spec is None:
                continue
            lost = {self._lost[name]: None for name in spec.dependencies if name in self._lost}
            if not lost:
                dependencies = {name: self._artifacts[name] for name in spec.dependencies}
                return self._begin(Job(id, spec, self.store.next_attempt(id), dependencies), where)
            self.fail(Job(id, spec, 0, {}), f"not begun, because {', '.join(lost)} failed", next(iter(lost)))
        return None

    def _resolve(self, name: str) -> None:
        """Mark a dependency resolved, or lost, and queue jobs that are now ready."""
        for id in self._dependents.pop(name, ()):
            self._num_open[id] -= 1
            if self._num_open[id] == 0:
                heapq.heappush(self._ready, (self._order[id], id))

    def again(self, job: Job, where: str) -> Job:
        """Begin another attempt at a job.

        Args:
            job: an earlier attempt, which was lost.
            where: name of the worker, for the listener.

        Returns:
            The new attempt.
        """
        # A new number, so that a worker believed lost that still writes cannot overwrite files of this attempt.
        return self._begin(Job(job.id, job.spec, self.store.next_attempt(job.id), job.dependencies), where)

    def _begin(self, job: Job, where: str) -> Job:
        self._began[job.id] = time.perf_counter()
        self._listener.started(job, where)
        return job

    def commit(self, job: Job, tables: Tables) -> None:
        """Commit a job that is done.

        Args:
            job: the attempt.
            tables: its rows.
        """
        self.commit_all([(job, tables)])

    def commit_all(self, done: Sequence[tuple[Job, Tables]]) -> None:
        """Commit several jobs in one commit record, which is faster and makes fewer files.

        Where another run into the same directory has committed a job first, its rows count, and these are dropped.

        Args:
            done: attempts and their rows.
        """
        if not done:
            return
        attempts = [Attempt(job.id, kind_of(job.spec), job.attempt, tables) for job, tables in done]
        counting = self.store.commit_all(attempts)
        # Dependents need the weights of the attempt that counts, not those of this one.
        others = self._read_artifacts() if len(counting) < len(done) else {}
        for job, tables in done:
            # After the commit: until then another attempt may have to resume from these states.
            for name in job.spec.releases:
                checkpoints.remove(self.store, self._ids[name])
            artifacts = artifacts_of(tables) if job.id in counting else others
            if job.id in counting:
                self._listener.committed(job, tables)
            for name in [name for name in artifacts if name not in self._artifacts]:
                self._artifacts[name] = artifacts[name]
                self._resolve(name)
            summary = kind_for(job.spec).summarize(tables)
            self._listener.finished(job, summary, time.perf_counter() - self._began.pop(job.id))

    def fail(self, job: Job, reason: str, cause: str | None = None) -> None:
        """Mark a job failed, and with it all that depend on it.

        Args:
            job: the attempt.
            reason: why, in a sentence; the name of the attempt's log is added where there is one.
            cause: for a job that was not begun, the artifact whose job failed.
        """
        # Looked up in the directory: the worker that wrote the log may be on another machine, or dead.
        if log := self._log_of(job):
            reason = f"{reason.rstrip()} (its log: {log})"
        self._failed[job.label] = reason
        if job.spec.produces:
            self._lost[job.spec.produces] = cause or job.spec.produces
            self._resolve(job.spec.produces)
        self._listener.failed(job, reason)

    def _log_of(self, job: Job) -> str | None:
        """Name of the attempt's log; None where it left none, because it was killed or never begun."""
        try:
            self.store.read_log(job.id, job.attempt)
        except FiprayError:
            return None
        return self.store.files.named(log_file(job.id, job.attempt))

    def close(self) -> Store:
        """End the run.

        Returns:
            The results directory, with all jobs committed.

        Raises:
            RunError: with the label and reason of every job that failed.
        """
        if self._failed:
            raise some_failed(self._failed, self._num_jobs, "jobs", self.store)
        return self.store

    def _read_artifacts(self) -> dict[str, Artifact]:
        return artifacts_of({name: self.store.read_table(name).to_pylist() for name in ARTIFACT_TABLES})


def some_failed(reasons: Mapping[str, str], total: int, what: str, store: Store) -> RunError:
    """Error with which a run ends when some of its jobs or trials failed.

    Args:
        reasons: why, by label.
        total: number of jobs or trials, those that succeeded included.
        what: "jobs" or "trials".
        store: the results directory.

    Returns:
        The error, with a line for each failure.
    """
    listing = "\n".join(f"{label}: {reason.strip()}" for label, reason in reasons.items())
    return RunError(
        f"{len(reasons)} of {total} {what} failed; the results of the others are in {store.address}. Fix the cause and "
        f"run the same command again: it runs only what is missing.\n{listing}"
    )


def payload_of(study: Study, store: Store) -> Payload:
    """Payload of a study, with the base weights of the results directory.

    The first run into a directory writes its base weights; later runs use those, even if the study's network has others
    by now.

    Args:
        study: the study.
        store: its results directory.

    Returns:
        The payload for workers.

    Raises:
        CorruptFileError: where the weights in the directory do not fit the study's network.
    """
    # The user's module stays as it is, on its device.
    module = copied(study.module, study.module.parameters()).cpu()
    store.write_base(state_arrays(module.state_dict()))
    arrays = store.read_base()
    try:
        load_shared(module, {name: to_tensor(array) for name, array in arrays.items()})
    except (RuntimeError, TypeError) as error:  # other names or shapes; types that torch lacks
        raise CorruptFileError(
            f"the base weights in {store.address} do not fit the study's network: {error}"
        ) from error
    return Payload.of(study, module, folders())
