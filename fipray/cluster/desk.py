"""Where reports of trials arrive in the driver, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from fipray.cluster.causes import cause_of
from fipray.cluster.heart import end_process
from fipray.cluster.lookout import Lookout
from fipray.cluster.stalls import Stalls
from fipray.cluster.trial import ERROR, IS_GIVEN_UP, PERCENT, ROWS, Done
from fipray.execution import checkpoints
from fipray.execution.jobs import Job
from fipray.execution.kinds.path import summarize
from fipray.execution.listeners import Listener
from fipray.execution.queue import some_failed
from fipray.records import Store
from fipray.study.search import Search


class Desk:
    """Where reports of trials arrive. The only writer of tables and commit records of a search.

    Where there are `stalls` it has trials that make no progress ended.
    """

    def __init__(
        self, search: Search, store: Store, listener: Listener, lookout: Lookout, stalls: Stalls | None = None
    ) -> None:
        self._search, self._store, self._listener = search, store, listener
        self._lookout, self._stalls, self._view = lookout, stalls, lookout.view
        self._ended: dict[str, str] = {}  # why the worker of a trial was ended, by the trial's id
        self._failed: dict[str, str] = {}  # reasons, by label

    @contextmanager
    def open(self) -> Iterator[None]:
        token = _OPEN.set(self)
        try:
            yield
        finally:
            _OPEN.reset(token)

    def look(self, trials: Sequence[Trial]) -> None:
        """Raises ClusterLostError where the cluster's control process is gone."""
        self._lookout.check()
        if self._stalls is None or self._lookout.pulse is None or self._view is self._lookout.view:
            return
        self._view = self._lookout.view
        running = {self._lookout.pulse.key(trial.trial_id): trial for trial in trials if trial.status == Trial.RUNNING}
        jobs = {key: trial.num_failures for key, trial in running.items() if trial.trial_id not in self._ended}
        for key, stall in self._stalls.look(self._view.at, self._view.beats, jobs).items():
            self._ended[running[key].trial_id] = str(stall)
            end_process(stall.beat)
        self._lookout.watched = tuple(running)

    def started(self, trial: Trial) -> None:
        self._listener.started(self._path(trial), f"trial {trial.trial_id}")

    def reported(self, trial: Trial, result: dict[str, Any]) -> None:
        if ERROR in result:
            self._failed[self._label(trial)] = result[ERROR]
            trial.max_failures = 0  # it would fail again; a worker that was lost is another matter
            return
        job = self._path(trial)
        self._listener.progressed(job, round(result[PERCENT] / 100 * (job.last_step or 0)))

    def ended(self, trial: Trial) -> None:
        """Commit what the trial did, last of all its path and its row in one commit: then nothing of it is missing."""
        job, result, seconds = self._path(trial), trial.last_result, trial.last_result.get("time_total_s", 0.0)
        sentence = "the same values were tried before, and are not walked again"
        for done in reversed(Done.of_json(result[ROWS])):
            tables = done.tables
            if rows := tables.get("paths"):
                tables = {**tables, "trials": [self._row(trial, rows[0])]}
            if self._store.commit(done.id, done.kind, done.attempt, tables) and rows:
                sentence = summarize(tables)
            checkpoints.remove(self._store, done.id)
        if not result[IS_GIVEN_UP] and len(self._search.objectives) > 1:
            sentence += "; " + ", ".join(f"{name} {result[name]:.4g}" for name in self._search.objectives)
        self._listener.finished(job, f"{self._said(trial)}: {sentence}", seconds)

    def failed(self, trial: Trial) -> None:
        reason = self._failed.setdefault(
            self._label(trial),
            f"given up: its worker was lost again and again, the last time because {self._cause(trial)}",
        )
        self._listener.failed(self._path(trial), reason)

    def lost(self, trial: Trial) -> None:
        self._listener.note(f"a worker was lost with {self._label(trial)}: {self._cause(trial)}. It is begun again")

    def _cause(self, trial: Trial) -> str:
        """Why its worker was lost."""
        return self._ended.pop(trial.trial_id, "") or cause_of(trial.get_error() or RuntimeError("nothing is known"))

    def close(self) -> Store:
        if self._failed:
            raise some_failed(self._failed, self._search.total, "trials", self._store)
        return self._store

    def _row(self, trial: Trial, path: dict[str, Any]) -> dict[str, Any]:
        shared = ("study", "path_id", "name", "num_steps", "outcome_kind", "attempt")
        config = self._search.config_json(trial.config)
        return {**{name: path[name] for name in shared}, "trial_id": str(trial.trial_id), "config_json": config}

    def _path(self, trial: Trial) -> Job:
        id, spec = next(iter(self._search.job(trial.config).items()))
        return Job(id, spec, 0, {})

    def _label(self, trial: Trial) -> str:
        return f"trial {trial.trial_id} ({self._said(trial)})"

    def _said(self, trial: Trial) -> str:
        values = self._search.values(trial.config).items()
        return ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values
        )


_OPEN: ContextVar[Desk] = ContextVar("the desk of the search that is under way")


class TuneCallback(tune.Callback):  # type: ignore[misc]
    """Hands Tune's calls to the desk that is open: Tune keeps its callbacks by pickle, and a restored one has none."""

    def on_step_begin(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        _OPEN.get().look(trials)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        _OPEN.get().started(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        _OPEN.get().reported(trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        _OPEN.get().ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        _OPEN.get().failed(trial)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        _OPEN.get().lost(trial)
