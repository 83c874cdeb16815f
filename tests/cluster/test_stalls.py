"""Workers that make no progress, a control process that is gone, and what is said of lost workers."""

from __future__ import annotations

import re
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import ray

import fipray as fip
from fipray import analysis
from fipray.cluster import session, token
from fipray.cluster.causes import cause_of
from fipray.cluster.heart import Beat
from fipray.cluster.lookout import REFUSED_SECONDS, SILENT_SECONDS, Lookout
from fipray.cluster.place import Place
from fipray.cluster.share import Share
from fipray.cluster.stalls import FIRST, Stalls
from tests.studies import StopsOnce, study


def beat(count: int, step: int | None = 3, has_begun: bool = True) -> Beat:
    return Beat(count, step, has_begun, "node", 1)


class TestStalls:
    def test_a_worker_that_finishes_nothing_for_the_limit_stalls_and_one_that_does_is_not_named(self):
        stalls, jobs = Stalls(10.0), {"still": "a", "busy": "b"}
        for second in range(10):
            assert not stalls.look(second, {"still": beat(7), "busy": beat(second)}, jobs)
        found = stalls.look(10.0, {"still": beat(7), "busy": beat(10)}, jobs)
        assert {key: str(stall) for key, stall in found.items()} == {
            "still": "it finished no step for 10 s after step 3"
        }

    def test_the_first_step_may_take_longer(self):
        stalls = Stalls(10.0)
        begins = {"one": beat(1, step=None, has_begun=False)}
        looks = [bool(stalls.look(second, begins, {"one": "a"})) for second in range(40)]
        assert looks.index(True) == 10 * FIRST

    def test_one_that_waits_for_its_place_or_has_nothing_to_do_is_not_counted(self):
        stalls = Stalls(10.0)
        for second in range(100):
            assert not stalls.look(second, {}, {"starting": "a"})
            assert not stalls.look(second, {"idle": beat(7)}, {})
        assert not stalls.look(100.0, {"idle": beat(7)}, {"idle": "new"})

    def test_new_work_begins_anew(self):
        stalls = Stalls(10.0)
        for second in range(50):
            assert not stalls.look(second, {"one": beat(7)}, {"one": second // 9})

    def test_a_driver_that_was_stopped_itself_blames_nobody(self):
        stalls, beats, jobs = Stalls(10.0), {"one": beat(7)}, {"one": "a"}
        stalls.look(0.0, beats, jobs)
        assert not stalls.look(60.0, beats, jobs)

    @pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
    def test_a_limit_is_a_number_above_zero(self, seconds):
        with pytest.raises(
            fip.errors.UsageError, match=r"stall_seconds is (a number of seconds above 0|nan; expected a number)"
        ):
            fip.RayRunner(stall_seconds=seconds)


@pytest.mark.slow
def test_a_stopped_worker_is_named_and_ended_and_its_path_goes_on_from_its_last_point(ray_session, tmp_path):
    """SIGSTOP, in the middle of the path: no thread of the process runs any more."""
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
    # A process that stops at once has not always said that its first step is over.
    assert re.match("worker 1 was lost with path one: it (finished no step|did not come to its first step) for ", note)
    row = analysis.load(tmp_path / "results").paths.iloc[0]
    assert (row["attempt"], row["num_steps"], row["outcome_kind"]) == (2, 8, "completed")


class Notes(fip.study.listener.Silent):
    """Keeps what is noted."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def note(self, sentence: str) -> None:
        self._said.append(sentence)


@pytest.mark.parametrize(("is_refused", "seconds"), [(True, REFUSED_SECONDS), (False, SILENT_SECONDS)])
def test_a_control_process_that_does_not_answer_is_lost_after_seconds(ray_session, is_refused, seconds):
    clock = count()
    lookout = Lookout(Share(), clock=lambda: float(next(clock)))
    lookout._is_refused = is_refused
    for _ in range(int(seconds)):
        lookout.check()
    with pytest.raises(fip.errors.ClusterLostError, match="the same command goes on"):
        lookout.check()


def test_a_driver_that_was_stopped_itself_takes_nothing_for_lost(ray_session):
    clock = count(step=60)
    lookout = Lookout(Share(), clock=lambda: float(next(clock)))
    lookout.check()
    lookout.check()


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(fip.errors.UsageError, match="nothing listens there"):
            session._check_listens(f"ray://127.0.0.1:{bound.getsockname()[1]}")


DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: Actor\nThe actor is dead because its "
    "worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            f"{DIED}Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include",
            "its process ended without a word (a crash, os._exit, a kill, or no memory left on its machine)",
        ),
        (f"{DIED}Worker exits unexpectedly. Worker exits with an exit code 4.", "its process ended with exit code 4"),
        (
            "The actor died because of an error raised in its creation task, \x1b[36mray::Actor.__init__()\x1b[39m "
            "(pid=1)\n  File x\nModuleNotFoundError: No module named 'mine'",
            "ModuleNotFoundError: No module named 'mine'",
        ),
    ],
)
def test_a_lost_worker_is_one_line(said, cause):
    error = ray.exceptions.RayActorError(error_msg=said)
    assert cause_of(error) == cause


def test_a_crash_is_found_in_the_log_of_the_worker(tmp_path):
    log = tmp_path / "worker.err"
    code = "import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)"
    with log.open("wb") as stream:
        subprocess.run([sys.executable, "-c", code], stderr=stream, check=False)
    place = Place("node", socket.gethostname(), 1, str(log))
    assert cause_of(ray.exceptions.RayActorError(), place).startswith("its process crashed: Segmentation fault")


class TestToken:
    @pytest.fixture
    def home(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
            monkeypatch.delenv(name, raising=False)
        return tmp_path

    def test_the_file_is_made_for_its_owner_alone(self, home):
        token.keep_token_private()
        file = home / ".ray" / "auth_token"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(file.read_text()) >= 32

    def test_one_that_others_may_read_is_closed_and_kept_also_where_ray_cannot_start(self, home, monkeypatch):
        file = home / ".ray" / "auth_token"
        file.parent.mkdir()
        file.write_text("a" * 64)
        file.chmod(0o644)

        def refuse(**_: object) -> None:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            raise RuntimeError("it cannot start")

        monkeypatch.setattr(ray, "init", refuse)
        monkeypatch.setattr(ray, "shutdown", lambda: None)  # the session that other tests share stays
        with pytest.raises(Exception, match="it cannot start"), session._private_session():
            pass
        assert file.read_text() == "a" * 64
