"""The queue of a study: jobs in dependency order, and the commits of their results."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fipray.errors import CorruptFileError, FiprayError, RunError
from fipray.execution import checkpoints
from fipray.execution.changed import Changed, opened
from fipray.execution.jobs import Artifact, Job, Payload, Tables, artifacts_of
from fipray.execution.listeners import Listener
from fipray.networks import copied
from fipray.records import Attempt, Store
from fipray.records.layout import log_file
from fipray.study.arrays import state_arrays, to_tensor
from fipray.study.canonical import kind_of
from fipray.study.rounds import RoundSpec
from fipray.study.script import folders
from fipray.study.study import Study


class Queue:
    """What is still to be done of a study, in an order in which it can be; commits what is done.

    The only writer of tables and commit records.
    """

    def __init__(self, study: Study, directory: str | Path, listener: Listener, changed: Changed = "stop") -> None:
        specs = study.specs
        self.store = opened(directory, study.manifest, specs.keys(), changed)
        self.store.verify(weights=self.store.is_near)
        self.material = material_of(study, self.store)
        self._listener = listener
        self._made = self._read_made()
        committed = self.store.committed()
        self._total = len(specs)
        self._ids = {spec.produces: id for id, spec in specs.items() if spec.produces}
        self._waiting = {id: spec for id, spec in specs.items() if id not in committed}
        self._place = {id: number for number, id in enumerate(specs)}
        self._ready: list[tuple[int, str]] = []  # a heap: what can be begun, in the order of the study
        self._lacking: dict[str, int] = {}  # how many names each id still waits for
        self._wanted_by: dict[str, list[str]] = {}  # the ids that wait for a name
        for id, spec in self._waiting.items():
            lacking = {name for name in spec.dependencies if name not in self._made}
            self._lacking[id] = len(lacking)
            for name in lacking:
                self._wanted_by.setdefault(name, []).append(id)
            if not lacking:
                heapq.heappush(self._ready, (self._place[id], id))
        self._failed: dict[str, str] = {}  # reasons, by label
        self._lost: dict[str, str] = {}  # what will never be made, and that for whose lack it will not
        self._began: dict[str, float] = {}
        listener.begin(study.name, len(specs), len(specs) - len(self._waiting))

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def next(self, where: str) -> Job | None:
        """The next work whose needs are there, now begun at `where`; None where there is none at the moment."""
        while self._ready:
            _, id = heapq.heappop(self._ready)
            spec = self._waiting.pop(id, None)
            if spec is None:
                continue
            lost = {self._lost[name]: None for name in spec.dependencies if name in self._lost}
            if not lost:
                needed = {name: self._made[name] for name in spec.dependencies}
                return self._begin(Job(id, spec, self.store.next_attempt(id), needed), where)
            self.fail(Job(id, spec, 0, {}), f"not begun, because {', '.join(lost)} failed", next(iter(lost)))
        return None

    def _settled(self, name: str) -> None:
        """It was made, or never will be: who waited for nothing else has its turn."""
        for id in self._wanted_by.pop(name, ()):
            self._lacking[id] -= 1
            if self._lacking[id] == 0:
                heapq.heappush(self._ready, (self._place[id], id))

    def again(self, job: Job, where: str) -> Job:
        """Another attempt at the same work."""
        return self._begin(Job(job.id, job.spec, self.store.next_attempt(job.id), job.made), where)

    def _begin(self, job: Job, where: str) -> Job:
        self._began[job.id] = time.perf_counter()
        self._listener.started(job, where)
        return job

    def commit(self, job: Job, tables: Tables) -> None:
        self.commit_all([(job, tables)])

    def commit_all(self, done: Sequence[tuple[Job, Tables]]) -> None:
        """Commit what was done by the same time."""
        if not done:
            return
        attempts = [Attempt(job.id, kind_of(job.spec), job.attempt, tables) for job, tables in done]
        counting = self.store.commit_all(attempts)
        # Where one does not count, another run into the same directory was first.
        others = self._read_made() if len(counting) < len(done) else {}
        for job, tables in done:
            for id in self._over(job):
                checkpoints.remove(self.store, id)
            made = artifacts_of(tables) if job.id in counting else others
            if job.id in counting:
                self._listener.committed(job, tables)
            for name in [name for name in made if name not in self._made]:
                self._made[name] = made[name]
                self._settled(name)
            self._listener.finished(job, describe(tables), time.perf_counter() - self._began.pop(job.id))

    def _over(self, job: Job) -> list[str]:
        """The ids of which no solver state is needed any more; a round's is, until the path ends."""
        if not isinstance(job.spec, RoundSpec):
            return [job.id]
        return [self._ids[name] for name in (*job.spec.earlier, job.spec.produces)] if job.spec.is_last else []

    def fail(self, job: Job, reason: str, cause: str | None = None) -> None:
        """The work failed; where it was not even begun, for lack of `cause`."""
        if log := self._log_of(job):
            reason = f"{reason.rstrip()} (its log: {log})"
        self._failed[job.label] = reason
        if job.spec.produces:
            self._lost[job.spec.produces] = cause or job.spec.produces
            self._settled(job.spec.produces)
        self._listener.failed(job, reason)

    def _log_of(self, job: Job) -> str | None:
        """The file, where the attempt left one: not where it was never begun, or killed."""
        try:
            self.store.read_log(job.id, job.attempt)
        except FiprayError:
            return None
        return self.store.files.named(log_file(job.id, job.attempt))

    def close(self) -> Store:
        """The store, when all is done. Raises RunError with what failed."""
        if self._failed:
            raise some_failed(self._failed, self._total, "pieces of work", self.store)
        return self.store

    def _read_made(self) -> dict[str, Artifact]:
        return artifacts_of(
            {name: self.store.read_table(name).to_pylist() for name in ("paths", "variants", "rounds", "per_example")}
        )


def some_failed(reasons: Mapping[str, str], total: int, what: str, store: Store) -> RunError:
    """What a run ends with when some of its work failed, for the `reasons` given by label."""
    listing = "\n".join(f"{label}: {reason.strip()}" for label, reason in reasons.items())
    return RunError(
        f"{len(reasons)} of {total} {what} failed; the others are in {store.address}. Mend the cause and run the same "
        f"command again: only what is missing is done.\n{listing}"
    )


def describe(tables: Tables) -> str:
    """What came out of a piece of work, in a line."""
    if rows := tables.get("paths"):
        row = rows[0]
        accuracy = "" if row["clean_accuracy"] is None else f", clean accuracy {row['clean_accuracy']:.2%}"
        distance = row["functional_distance_held_out"]
        return f"{row['outcome']}; functional distance {distance:.3f}, sparsity {row['sparsity']:.3f}{accuracy}"
    if rows := tables.get("rounds"):
        return str(rows[0]["outcome"])
    if rows := tables.get("robustness"):
        clean, worst = rows[0]["clean_accuracy"], rows[-1]["robust_accuracy"]
        sentence = f"clean accuracy {clean:.2%}, robust accuracy {worst:.1%} at epsilon {rows[-1]['epsilon']:g}"
        masked = "; gradients may be masked" if rows[-1]["warnings"] else ""
        return sentence + masked + ("" if tables.get("measures") else "; no measures, as there are outputs with NaN")
    if rows := tables.get("per_example"):
        clean, robust = (sum(rows[0][name]) / len(rows[0][name]) for name in ("clean", "robust"))
        return f"clean accuracy {clean:.1%}, robust accuracy {robust:.1%}"
    return f"{len(tables['transfer'])} pairs of networks"


def material_of(study: Study, store: Store) -> Payload:
    """The study's network and data; the base weights are those of the directory, once it has some."""
    module = copied(study.module).cpu()
    store.write_base(state_arrays(module.state_dict()))
    arrays = store.read_base()
    try:
        module.load_state_dict({name: to_tensor(array) for name, array in arrays.items()})
    except (RuntimeError, TypeError) as error:  # other names or shapes; types that torch lacks
        raise CorruptFileError(
            f"the base weights in {store.address} do not fit the study's network: {error}"
        ) from error
    return Payload.of(study, module, folders())
