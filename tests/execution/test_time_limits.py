"""Time limits: paths end with an outcome of their own, whatever their steps are."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import pytest

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from fipray.paths import Acceptance, Candidate, PathPoint, Problem
from tests.problems import mlp, normal
from tests.studies import cooperating, study


@dataclass(frozen=True)
class Refuses:
    """Radius control that accepts no step and never shrinks, so that the path is never stuck."""

    def begin(self, problem: Problem) -> float:
        return 1.0

    def judge(self, candidate: Candidate) -> Acceptance:
        return Acceptance(False, 1.0)


def traced(**settings):
    anchors, held_out = normal(60, 6, seed=1), normal(40, 6, seed=2)
    settings = {"num_steps": 10**6, "batch_size": 20, "save_at": fip.SaveAt(1)} | settings
    return fip.trace(
        mlp(6, 12, 4), anchors=anchors, held_out=held_out, objective=fip.objectives.GradientDiversity(), **settings
    )


class Clock:
    """Clock that advances by a second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_path_ends_between_saved_points_at_its_last_accepted_one(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", Clock())
    path = traced(stepper=fip.steppers.FirstOrder(beta=0.1), radius=fip.radii.Scheduled(0.05), max_seconds=60.0)
    assert path.outcome.kind == "out of time"
    assert path.outcome.sentence.startswith(f"stopped: 61 s were walked of at most 60 at step {path.end.step}; ")
    assert [point.step for point in path.points] == [0, path.end.step]
    assert path.end.step == 30, "the clock is read twice a step"


def test_path_without_an_accepted_step_ends():
    path = traced(radius=Refuses(), stepper=fip.steppers.FirstOrder(beta=0.1), max_seconds=0.05)
    assert path.outcome.kind == "out of time"
    assert path.end.step == 0


def test_seconds_of_an_earlier_attempt_count():
    first = traced(num_steps=4, until=2, stepper=fip.steppers.FirstOrder(beta=0.1), radius=fip.radii.Scheduled(0.05))
    spent: PathPoint = replace(first.end, seconds=1000.0)
    settings = {"num_steps": 4, "stepper": fip.steppers.FirstOrder(beta=0.1), "radius": fip.radii.Scheduled(0.05)}
    resumed = traced(**settings, resume=(*first.points[:-1], spent), max_seconds=999.0)
    assert resumed.outcome.sentence.startswith("stopped: 1e+03 s were walked of at most 999 at step 2; ")
    assert resumed.end.step == 2


def test_on_step_is_called_for_every_step():
    steps: list[int] = []
    traced(num_steps=3, stepper=fip.steppers.FirstOrder(beta=0.1), radius=Refuses(), on_step=steps.append)
    assert steps == [1, 2, 3]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_limit_at_or_below_zero_is_refused(seconds):
    with pytest.raises(fip.errors.UsageError, match=r"max_seconds is (above 0|nan; expected a number)"):
        traced(max_seconds=seconds)
    with pytest.raises(fip.errors.UsageError, match=r"max_seconds is (above 0|nan; expected a number)"):
        fip.PathSpec("one", fip.objectives.GradientDiversity(), max_seconds=seconds)


def test_tables_name_the_outcome_also_in_rounds(tmp_path):
    path = fip.PathSpec("one", fip.objectives.GradientDiversity(), num_steps=10**6, batch_size=20, max_seconds=1e-9)
    LocalRunner().run(replace(study(), paths=(path,), ensembles=(), evaluation=None), tmp_path / "path")
    together = cooperating()
    limited = replace(together, paths=(replace(together.paths[0], max_seconds=1e-9), *together.paths[1:]))
    LocalRunner().run(limited, tmp_path / "rounds")
    assert list(analysis.load(tmp_path / "path").paths["outcome_kind"]) == ["out of time"]
    kinds = analysis.load(tmp_path / "rounds").paths.set_index("name")["outcome_kind"]
    assert kinds.to_dict() == {"a": "out of time", "b": "completed", "c": "completed"}


def test_limit_is_part_of_the_id():
    paths = [
        fip.PathSpec("one", fip.objectives.GradientDiversity(), max_seconds=seconds) for seconds in (None, 60.0, 61.0)
    ]
    ids = {replace(study(), paths=(path,), ensembles=(), evaluation=None).path_ids["one"] for path in paths}
    assert len(ids) == 3
