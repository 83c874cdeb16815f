"""Detection of workers that make no progress."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import fipray as fip
from fipray import analysis
from fipray.cluster.heartbeats import Beat, report_progress
from fipray.cluster.stalls import FIRST_STEP_FACTOR, StallDetector
from fipray.execution import Silent
from fipray.execution.jobs import Job
from tests.studies import StopsOnce, study


def beat(count: int, step: int | None = 3, has_begun: bool = True) -> Beat:
    return Beat(count, step, has_begun, "node", 1)


class TestStallDetector:
    def test_names_a_worker_without_progress_for_the_limit_alone(self):
        stalls, jobs = StallDetector(10.0), {"still": "a", "busy": "b"}
        for second in range(10):
            assert not stalls.update(second, {"still": beat(7), "busy": beat(second)}, jobs)
        found = stalls.update(10.0, {"still": beat(7), "busy": beat(10)}, jobs)
        assert {key: str(stall) for key, stall in found.items()} == {
            "still": "it finished no step for 10 s after step 3"
        }

    def test_allows_three_times_the_limit_before_the_first_step(self):
        stalls = StallDetector(10.0)
        begins = {"one": beat(1, step=None, has_begun=False)}
        stalled = [bool(stalls.update(second, begins, {"one": "a"})) for second in range(40)]
        assert stalled.index(True) == 10 * FIRST_STEP_FACTOR

    def test_does_not_count_starting_and_idle_workers(self):
        stalls = StallDetector(10.0)
        for second in range(100):
            assert not stalls.update(second, {}, {"starting": "a"})
            assert not stalls.update(second, {"idle": beat(7)}, {})
        assert not stalls.update(100.0, {"idle": beat(7)}, {"idle": "new"})

    def test_counts_anew_for_each_job(self):
        stalls = StallDetector(10.0)
        for second in range(50):
            assert not stalls.update(second, {"one": beat(7)}, {"one": second // 9})

    def test_names_nobody_after_the_driver_was_suspended(self):
        stalls, beats, jobs = StallDetector(10.0), {"one": beat(7)}, {"one": "a"}
        stalls.update(0.0, beats, jobs)
        assert not stalls.update(60.0, beats, jobs)

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_limit_must_be_a_positive_number(self, seconds):
        with pytest.raises(
            fip.errors.UsageError,
            match=r"stall_seconds (must be a positive number of seconds|is nan; expected a number)",
        ):
            fip.RayRunner(stall_seconds=seconds)


@pytest.mark.slow
def test_stopped_worker_is_killed_and_its_path_resumes_from_its_last_checkpoint(ray_session, tmp_path):
    """SIGSTOP in the middle of the path stops all threads of the process."""
    stopped = tmp_path / "stopped"
    path = fip.PathSpec(
        "one",
        fip.objectives.GradientDiversity(),
        stepper=StopsOnce(str(stopped)),
        radius=fip.radii.Scheduled(0.05),
        num_steps=8,
        batch_size=20,
    )
    said: list[str] = []
    fip.RayRunner(num_workers=1, stall_seconds=3).run(
        replace(study(), paths=(path,), ensembles=(), evaluation=None), tmp_path / "results", Notes(said)
    )
    assert stopped.exists()
    (note,) = [sentence for sentence in said if "was lost" in sentence]
    # A process that stops early may not have sent the end of its first step.
    stall = r"it (finished no step for|did not reach its first step within) \d+ s"
    assert re.match(f"worker 1 was lost while running path one: {stall}", note)
    row = analysis.load(tmp_path / "results").paths.iloc[0]
    assert (row["attempt"], row["num_steps"], row["outcome_kind"]) == (2, 8, "completed")


class Notes(Silent):
    """Listener that keeps notes."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def note(self, sentence: str) -> None:
        self._said.append(sentence)


def test_heartbeat_of_a_path_reports_its_step_and_what_it_does_besides():
    said: list[object] = []

    class Told(Silent):
        def progressed(self, job, step):
            said.append(step)

        def stage(self, job, stage):
            said.append(stage)

    path = Job("one", fip.PathSpec("one", fip.objectives.GradientDiversity()), 1, {})
    for step, stage in ((None, "outputs of the start on the anchors, 1,024 of 2,500"), (7, "measuring"), (8, "")):
        report_progress(Beat(1, step, True, "node", 1, "one", stage), path, Told())
    report_progress(Beat(1, 9, True, "node", 1, "another", "measuring"), path, Told())
    assert said == ["outputs of the start on the anchors, 1,024 of 2,500", 7, "measuring", 8, ""]
