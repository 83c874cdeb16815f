"""Who carries specs: the agenda that every runner works off, and the runner of this process."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from fipray.errors import CorruptFileError, FiprayError, RunError
from fipray.records import Store
from fipray.study import resume
from fipray.study.rounds import RoundSpec
from fipray.study.spec import Study
from fipray.study.work import Made, Material, Tables, Work, made_of
from fipray.study.worker import PathWorker


class Watch(Protocol):
    """Is told how a run goes on."""

    def begin(self, study: str, total: int, done: int) -> None: ...
    def started(self, work: Work, where: str) -> None: ...
    def walked(self, work: Work, step: int) -> None: ...
    def finished(self, work: Work, sentence: str, seconds: float) -> None: ...
    def failed(self, work: Work, reason: str) -> None: ...
    def note(self, sentence: str) -> None: ...


class Quiet:
    """A watch that says nothing."""

    def begin(self, study: str, total: int, done: int) -> None:
        pass

    def started(self, work: Work, where: str) -> None:
        pass

    def walked(self, work: Work, step: int) -> None:
        pass

    def finished(self, work: Work, sentence: str, seconds: float) -> None:
        pass

    def failed(self, work: Work, reason: str) -> None:
        pass

    def note(self, sentence: str) -> None:
        pass


class Runner(Protocol):
    """Carries out what a results directory still lacks of a study."""

    def run(self, study: Study, directory: str | Path, watch: Watch | None = None) -> Store:
        """Returns when all is there. Raises RunError when some of it failed; the rest is there then."""
        ...


class Agenda:
    """What is still to be done of a study, in an order in which it can be; commits what is done.

    The only writer of tables and commit records.
    """

    def __init__(self, study: Study, directory: str | Path, watch: Watch) -> None:
        self.store = Store.create_or_open(directory, study.manifest)
        self.store.verify(weights=self.store.is_near)
        self.material = _material(study, self.store)
        self._watch = watch
        self._made = self._read_made()
        committed = self.store.committed()
        self._total = len(study.specs)
        self._ids = {spec.makes: id for id, spec in study.specs.items() if spec.makes}
        self._waiting = {id: spec for id, spec in study.specs.items() if id not in committed}
        self._failed: dict[str, str] = {}  # reasons, by label
        self._lost: dict[str, str] = {}  # what will never be made, and that for whose lack it will not
        self._began: dict[str, float] = {}
        watch.begin(study.name, len(study.specs), len(study.specs) - len(self._waiting))

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def next(self, where: str) -> Work | None:
        """The next work whose needs are there, now begun at `where`; None where there is none at the moment."""
        for id, spec in list(self._waiting.items()):
            lost = {self._lost[name]: None for name in spec.needs if name in self._lost}
            if lost:
                del self._waiting[id]
                self.fail(Work(id, spec, 0, {}), f"not begun, because {', '.join(lost)} failed", next(iter(lost)))
            elif all(name in self._made for name in spec.needs):
                del self._waiting[id]
                needed = {name: self._made[name] for name in spec.needs}
                return self._begin(Work(id, spec, self.store.next_attempt(id), needed), where)
        return None

    def again(self, work: Work, where: str) -> Work:
        """Another attempt at the same work."""
        return self._begin(Work(work.id, work.spec, self.store.next_attempt(work.id), work.made), where)

    def _begin(self, work: Work, where: str) -> Work:
        self._began[work.id] = time.perf_counter()
        self._watch.started(work, where)
        return work

    def commit(self, work: Work, tables: Tables) -> None:
        counts = self.store.commit(work.id, type(work.spec).__name__, work.attempt, tables)
        for id in self._over(work):
            resume.remove(self.store, id)
        # Where it does not count, another run into the same directory was first.
        self._made |= made_of(tables) if counts else self._read_made()
        self._watch.finished(work, describe(tables), time.perf_counter() - self._began[work.id])

    def _over(self, work: Work) -> list[str]:
        """The ids of which no solver state is needed any more; a round's is, until the path ends."""
        if not isinstance(work.spec, RoundSpec):
            return [work.id]
        return [self._ids[name] for name in (*work.spec.earlier, work.spec.makes)] if work.spec.is_last else []

    def fail(self, work: Work, reason: str, cause: str | None = None) -> None:
        """The work failed; where it was not even begun, for lack of `cause`."""
        self._failed[work.label] = reason
        if work.spec.makes:
            self._lost[work.spec.makes] = cause or work.spec.makes
        self._watch.failed(work, reason)

    def close(self) -> Store:
        """The store, when all is done. Raises RunError with what failed."""
        if self._failed:
            listing = "\n".join(f"{label}: {reason.strip()}" for label, reason in self._failed.items())
            raise RunError(
                f"{len(self._failed)} of {self._total} pieces of work failed; the others are in "
                f"{self.store.address}. Mend the cause and run the same command again: only what is missing is "
                f"done.\n{listing}"
            )
        return self.store

    def _read_made(self) -> dict[str, Made]:
        return made_of({name: self.store.read_table(name).to_pylist() for name in ("paths", "rounds", "verdicts")})


@dataclass(frozen=True)
class LocalRunner:
    """Carries out a study in this process, one piece of work after the other: for debugging, and without Ray."""

    threads: int = 1
    device: str = "cpu"

    def run(self, study: Study, directory: str | Path, watch: Watch | None = None) -> Store:
        threads = torch.get_num_threads()
        agenda = Agenda(study, directory, watch or Quiet())
        try:
            worker = PathWorker(agenda.material, directory, threads=self.threads, device=self.device)
            while work := agenda.next("this process"):
                try:
                    tables = worker.carry_out(work)
                except FiprayError as error:
                    agenda.fail(work, str(error))
                except Exception:  # whatever a study's own objective or stepper raises: the other paths go on
                    agenda.fail(work, traceback.format_exc())
                else:
                    agenda.commit(work, tables)
        finally:
            torch.set_num_threads(threads)
        return agenda.close()


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


def _material(study: Study, store: Store) -> Material:
    """The study's network and data; the base weights are those of the directory, once it has some."""
    module = copy.deepcopy(study.module).cpu()
    state: Mapping[str, Any] = {name: value.numpy() for name, value in module.state_dict().items()}
    store.write_base(state)
    arrays = store.read_base()
    try:
        module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    except RuntimeError as error:
        raise CorruptFileError(
            f"the base weights in {store.address} do not fit the study's network: {error}"
        ) from error
    return Material(study.name, module, study.data, study.geometry)
