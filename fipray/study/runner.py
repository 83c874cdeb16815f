"""Who carries specs: the agenda that every runner works off, and the runner of this process."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from fipray.border import checked
from fipray.errors import CorruptFileError, FiprayError, RunError, UsageError
from fipray.geometry import check_device, copied
from fipray.records import Attempt, Store
from fipray.records.layout import log_file
from fipray.study import resume
from fipray.study.arrays import state_arrays, to_tensor
from fipray.study.canonical import kind_of
from fipray.study.changed import Changed, opened
from fipray.study.failures import interruptions, sentence_of
from fipray.study.rounds import RoundSpec
from fipray.study.script import folders
from fipray.study.spec import Study
from fipray.study.watch import Quiet, Watch
from fipray.study.work import Made, Material, Tables, Work, made_of
from fipray.study.worker import PathWorker


@runtime_checkable
class Runner(Protocol):
    """Carries out what a results directory still lacks of a study."""

    def run(self, study: Study, directory: str | Path, watch: Watch | None = None, changed: Changed = "stop") -> Store:
        """Returns when all is there. Raises RunError when some of it failed; the rest is there then.

        changed: where the directory was made by other code of the user's own, "stop", or "redo" what depends on it.
        """
        ...


class Agenda:
    """What is still to be done of a study, in an order in which it can be; commits what is done.

    The only writer of tables and commit records.
    """

    def __init__(self, study: Study, directory: str | Path, watch: Watch, changed: Changed = "stop") -> None:
        specs = study.specs
        self.store = opened(directory, study.manifest, specs.keys(), changed)
        self.store.verify(weights=self.store.is_near)
        self.material = material_of(study, self.store)
        self._watch = watch
        self._made = self._read_made()
        committed = self.store.committed()
        self._total = len(specs)
        self._ids = {spec.makes: id for id, spec in specs.items() if spec.makes}
        self._waiting = {id: spec for id, spec in specs.items() if id not in committed}
        self._place = {id: number for number, id in enumerate(specs)}
        self._ready: list[tuple[int, str]] = []  # a heap: what can be begun, in the order of the study
        self._lacking: dict[str, int] = {}  # how many names each id still waits for
        self._wanted_by: dict[str, list[str]] = {}  # the ids that wait for a name
        for id, spec in self._waiting.items():
            lacking = {name for name in spec.needs if name not in self._made}
            self._lacking[id] = len(lacking)
            for name in lacking:
                self._wanted_by.setdefault(name, []).append(id)
            if not lacking:
                heapq.heappush(self._ready, (self._place[id], id))
        self._failed: dict[str, str] = {}  # reasons, by label
        self._lost: dict[str, str] = {}  # what will never be made, and that for whose lack it will not
        self._began: dict[str, float] = {}
        watch.begin(study.name, len(specs), len(specs) - len(self._waiting))

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def next(self, where: str) -> Work | None:
        """The next work whose needs are there, now begun at `where`; None where there is none at the moment."""
        while self._ready:
            _, id = heapq.heappop(self._ready)
            spec = self._waiting.pop(id, None)
            if spec is None:
                continue
            lost = {self._lost[name]: None for name in spec.needs if name in self._lost}
            if not lost:
                needed = {name: self._made[name] for name in spec.needs}
                return self._begin(Work(id, spec, self.store.next_attempt(id), needed), where)
            self.fail(Work(id, spec, 0, {}), f"not begun, because {', '.join(lost)} failed", next(iter(lost)))
        return None

    def _settled(self, name: str) -> None:
        """It was made, or never will be: who waited for nothing else has its turn."""
        for id in self._wanted_by.pop(name, ()):
            self._lacking[id] -= 1
            if self._lacking[id] == 0:
                heapq.heappush(self._ready, (self._place[id], id))

    def again(self, work: Work, where: str) -> Work:
        """Another attempt at the same work."""
        return self._begin(Work(work.id, work.spec, self.store.next_attempt(work.id), work.made), where)

    def _begin(self, work: Work, where: str) -> Work:
        self._began[work.id] = time.perf_counter()
        self._watch.started(work, where)
        return work

    def commit(self, work: Work, tables: Tables) -> None:
        self.commit_all([(work, tables)])

    def commit_all(self, done: Sequence[tuple[Work, Tables]]) -> None:
        """Commit what was done by the same time."""
        if not done:
            return
        attempts = [Attempt(work.id, kind_of(work.spec), work.attempt, tables) for work, tables in done]
        counting = self.store.commit_all(attempts)
        # Where one does not count, another run into the same directory was first.
        others = self._read_made() if len(counting) < len(done) else {}
        for work, tables in done:
            for id in self._over(work):
                resume.remove(self.store, id)
            made = made_of(tables) if work.id in counting else others
            if work.id in counting:
                self._watch.committed(work, tables)
            for name in [name for name in made if name not in self._made]:
                self._made[name] = made[name]
                self._settled(name)
            self._watch.finished(work, describe(tables), time.perf_counter() - self._began.pop(work.id))

    def _over(self, work: Work) -> list[str]:
        """The ids of which no solver state is needed any more; a round's is, until the path ends."""
        if not isinstance(work.spec, RoundSpec):
            return [work.id]
        return [self._ids[name] for name in (*work.spec.earlier, work.spec.makes)] if work.spec.is_last else []

    def fail(self, work: Work, reason: str, cause: str | None = None) -> None:
        """The work failed; where it was not even begun, for lack of `cause`."""
        if log := self._log_of(work):
            reason = f"{reason.rstrip()} (its log: {log})"
        self._failed[work.label] = reason
        if work.spec.makes:
            self._lost[work.spec.makes] = cause or work.spec.makes
            self._settled(work.spec.makes)
        self._watch.failed(work, reason)

    def _log_of(self, work: Work) -> str | None:
        """The file, where the attempt left one: not where it was never begun, or killed."""
        try:
            self.store.read_log(work.id, work.attempt)
        except FiprayError:
            return None
        return self.store.files.named(log_file(work.id, work.attempt))

    def close(self) -> Store:
        """The store, when all is done. Raises RunError with what failed."""
        if self._failed:
            raise some_failed(self._failed, self._total, "pieces of work", self.store)
        return self.store

    def _read_made(self) -> dict[str, Made]:
        return made_of(
            {name: self.store.read_table(name).to_pylist() for name in ("paths", "variants", "rounds", "verdicts")}
        )


@checked
@dataclass(frozen=True)
class LocalRunner:
    """Carries out a study in this process, one piece of work after the other: for debugging, and without Ray.

    What the study's own code raises, KeyboardInterrupt and SystemExit too, fails one path; Ctrl-C ends the run. Nothing
    here can end a step that never returns: where that may happen, use `RayRunner(num_workers=1, stall_seconds=...)`.
    """

    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"a run takes at least one thread; threads={self.threads} was given")
        check_device(self.device)

    @checked
    def run(self, study: Study, directory: str | Path, watch: Watch | None = None, changed: Changed = "stop") -> Store:
        """Returns when all is there. Raises RunError when some of it failed; the rest is there then.

        changed: where the directory was made by other code of the user's own, "stop", or "redo" what depends on it.
        """
        threads = torch.get_num_threads()
        agenda = Agenda(study, directory, watch or Quiet(), changed)
        try:
            worker = PathWorker(agenda.material, directory, threads=self.threads, device=self.device)
            with interruptions() as is_interrupted:
                while work := agenda.next("this process"):
                    try:
                        tables = worker.carry_out(work)
                    except BaseException as error:  # whatever a study's own code raises: the other paths go on
                        if is_interrupted():
                            raise KeyboardInterrupt from error
                        agenda.fail(work, sentence_of(error))
                    else:
                        agenda.commit(work, tables)
                        if is_interrupted():  # and the study's own code went on regardless
                            raise KeyboardInterrupt
        finally:
            torch.set_num_threads(threads)
        return agenda.close()


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
    if rows := tables.get("verdicts"):
        clean, robust = (sum(rows[0][name]) / len(rows[0][name]) for name in ("clean", "robust"))
        return f"clean accuracy {clean:.1%}, robust accuracy {robust:.1%}"
    return f"{len(tables['transfer'])} pairs of networks"


def material_of(study: Study, store: Store) -> Material:
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
    return Material.of(study, module, folders())
