"""The local runner: the tables of a study, and what a second run still computes."""

from __future__ import annotations

import traceback
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from fipray.execution.queue import Queue
from fipray.execution.worker import Worker
from fipray.records import Store, compact
from tests.studies import CutOff, Fails, module, study

MAY_DIFFER = ["attempt", "seconds", "weights_file"]


class Recorder:
    """Listener that records its calls."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.done: list[str] = []
        self.failures: dict[str, str] = {}

    def doing(self, sentence):
        pass

    def begin(self, study, waiting, done):
        self.begun.append((len(waiting) + done, done))

    def started(self, job, where):
        pass

    def progressed(self, job, step):
        pass

    def stage(self, job, stage):
        pass

    def committed(self, job, tables):
        pass

    def finished(self, job, sentence, seconds):
        self.done.append(job.label)

    def failed(self, job, reason):
        self.failures[job.label] = reason

    def note(self, sentence):
        pass


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> analysis.Results:
    directory = tmp_path_factory.mktemp("results") / "small"
    LocalRunner().run(study(), directory)
    return analysis.load(directory)


def test_every_path_and_every_saved_point_has_one_row(results):
    assert sorted(results.paths["name"]) == ["diverse-0", "diverse-1", "sparse", "sparse-too"]
    assert not results.points.duplicated(["path_id", "step"]).any()
    ends = results.points.groupby("name")["step"].max()
    assert (ends == results.paths.set_index("name")["num_steps"]).all()


def test_pruning_path_ends_at_its_sparsity_with_exact_zeros(results):
    weights = results.weights("sparse")
    assert np.count_nonzero(weights == 0) == round(0.5 * weights.size)
    assert results.paths.set_index("name").loc["sparse", "sparsity"] == np.mean(weights == 0)


def test_robustness_has_rows_for_every_network_and_attack_and_the_worst(results):
    table = results.robustness.pivot(index="name", columns="attack", values="robust_accuracy")
    assert list(table.index) == ["base", "both", "diverse-0", "diverse-1", "sparse", "sparse-too"]
    assert list(table.columns) == ["fgsm", "none", "pgd-5x1", "worst"]
    assert (table["worst"] <= table[["fgsm", "pgd-5x1"]].min(axis=1)).all()


def test_clean_accuracy_is_that_of_the_saved_weights(results):
    network, data = fip.Network.of(module()), study().data
    row = results.paths.set_index("name").loc["diverse-1"]
    outputs = network.outputs(torch.from_numpy(results.weights("diverse-1")), torch.from_numpy(data.test_inputs))
    assert row["clean_accuracy"] == np.mean(outputs.argmax(1).numpy() == data.test_labels)


def test_transfer_has_a_row_for_every_pair(results):
    names = {"base", "both", "diverse-0", "diverse-1", "sparse", "sparse-too"}
    assert set(zip(results.transfer["source"], results.transfer["target"], strict=True)) == {
        (source, target) for source in names for target in names
    }


def test_second_run_computes_nothing(results):
    listener = Recorder()
    LocalRunner().run(study(), results.directory, listener)
    assert listener.begun == [(11, 11)]
    assert listener.done == []


def test_run_computes_only_what_is_missing(tmp_path):
    small = study(num_steps=1)
    LocalRunner().run(small, tmp_path)
    ids = small.path_ids
    (tmp_path / "commits" / f"{ids['diverse-0']}.json").unlink()
    listener = Recorder()
    LocalRunner().run(small, tmp_path, listener)
    assert listener.begun == [(11, 10)]
    assert listener.done == ["path diverse-0"]
    again = analysis.load(tmp_path).paths.set_index("name")
    assert again.loc["diverse-0", "attempt"] == 2


def test_directory_keeps_the_base_weights_of_its_first_run(tmp_path):
    made = [replace(study(num_steps=2), ensembles=(), evaluation=None) for _ in range(2)]
    for number, each in enumerate(made):
        object.__setattr__(each, "base_id", "recipe")
        object.__setattr__(each, "module", module(seed=number))
    LocalRunner().run(made[0], tmp_path)
    before = analysis.load(tmp_path)
    (tmp_path / "commits" / f"{made[1].path_ids['sparse']}.json").unlink()
    LocalRunner().run(made[1], tmp_path)
    np.testing.assert_array_equal(analysis.load(tmp_path).weights("sparse"), before.weights("sparse"))


def test_failed_path_fails_only_its_dependents(tmp_path):
    broken, listener = study(objective=Fails("the mistake")), Recorder()
    with pytest.raises(fip.errors.RunError) as failed:
        LocalRunner().run(broken, tmp_path, listener)
    assert set(listener.failures) == {
        "path sparse",
        "path sparse-too",
        "attacks on sparse",
        "attacks on sparse-too",
        "transfer of attacks",
    }
    assert "ZeroDivisionError: the mistake" in listener.failures["path sparse"]
    assert "tests/studies.py" in listener.failures["path sparse"], "the message names the file and line"
    assert "not begun, because sparse failed" in listener.failures["path sparse-too"]
    assert "5 of 11 jobs failed" in "".join(traceback.format_exception_only(failed.value))
    assert sorted(analysis.load(tmp_path).paths["name"]) == ["diverse-0", "diverse-1"]


def test_directory_of_another_study_is_refused_and_left_unchanged(results):
    before = sorted(file.name for file in results.directory.rglob("*"))
    with pytest.raises(fip.errors.UsageError, match=r"sparsity is 0\.5 there and 0\.6 here"):
        LocalRunner().run(study(sparsity=0.6), results.directory)
    assert sorted(file.name for file in results.directory.rglob("*")) == before


def test_number_of_threads_is_reset_after_a_run(tmp_path):
    before = torch.get_num_threads()
    LocalRunner(threads=2).run(replace(study(num_steps=1), ensembles=(), evaluation=None), tmp_path)
    assert torch.get_num_threads() == before


class TestResumption:
    def cut_off(self, tmp_path, fixed):
        path = fip.PathSpec(
            "one",
            fip.objectives.GradientDiversity(),
            stepper=CutOff(str(fixed)),
            radius=fip.radii.Scheduled(),
            num_steps=10,
            batch_size=50,
        )
        return replace(study(), paths=(path,), ensembles=(), evaluation=None)

    def test_path_resumes_at_its_last_point_and_equals_the_uninterrupted_one(self, tmp_path):
        fixed = tmp_path / "fixed"
        cut = self.cut_off(tmp_path, fixed)
        with pytest.raises(fip.errors.RunError, match="cut off"):
            LocalRunner().run(cut, tmp_path / "cut")
        saved = {file.name for file in (tmp_path / "cut").glob("weights/*/1/*")}
        assert saved == {*(f"step-{step:08d}.safetensors" for step in range(7)), "state-00000006.safetensors"}
        fixed.touch()
        LocalRunner().run(cut, tmp_path / "cut")
        LocalRunner().run(cut, tmp_path / "whole")
        resumed, whole = (analysis.load(tmp_path / name) for name in ("cut", "whole"))
        assert {file.name for file in (tmp_path / "cut").glob("weights/*/2/*")} == {
            f"step-{step:08d}.safetensors" for step in range(7, 11)
        }
        same = ["step", "objective_value", "functional_distance_held_out", "clean_accuracy", "radius", "weights_sha256"]
        assert resumed.points[same].equals(whole.points[same])

    def test_path_with_a_damaged_solver_state_starts_again(self, tmp_path):
        fixed = tmp_path / "fixed"
        cut = self.cut_off(tmp_path, fixed)
        with pytest.raises(fip.errors.RunError, match="cut off"):
            LocalRunner().run(cut, tmp_path / "cut")
        fixed.touch()
        (state,) = (tmp_path / "cut").glob("weights/*/1/state-*")
        content = bytearray(state.read_bytes())
        content[-5] ^= 1
        state.write_bytes(content)
        LocalRunner().run(cut, tmp_path / "cut")
        assert len(list((tmp_path / "cut").glob("weights/*/2/step-*"))) == 11

    def test_attempt_lost_after_its_end_takes_no_steps_again_and_gives_equal_rows(self, tmp_path):
        """Also where the end has replaced a saved point: at a goal, the whole sparsity is imposed on it."""
        goal = (fip.events.ObjectiveBelow(1e9),)
        path = fip.PathSpec(
            "one",
            fip.objectives.Sparsify(0.5),
            stepper=fip.steppers.FirstOrder(),
            events=goal,
            num_steps=10,
            batch_size=50,
        )
        queue = Queue(replace(study(), paths=(path,), ensembles=(), evaluation=None), tmp_path / "lost", Recorder())
        worker = Worker(queue.payload, tmp_path / "lost")
        lost = queue.next("here")
        rows = worker.run(lost)["points"]
        again = worker.run(queue.again(lost, "here"))["points"]
        same = ["step", "sparsity", "objective_value", "radius", "weights_sha256", "weights_file"]
        assert [[row[name] for name in same] for row in again] == [[row[name] for name in same] for row in rows]
        assert [row["step"] for row in rows] == [0, 1]
        assert rows[-1]["sparsity"] >= 0.49


def test_object_store_holds_equal_tables_and_a_second_run_computes_only_what_is_missing(results, bucket):
    LocalRunner().run(study(), bucket)
    store, path_ids = Store.open(bucket), dict(zip(results.paths["name"], results.paths["path_id"], strict=True))
    store.files.remove(f"commits/{path_ids['sparse-too']}.json")
    recorder = Recorder()
    LocalRunner().run(study(), bucket, recorder)
    assert recorder.done == ["path sparse-too"]
    compact(store)
    in_bucket = analysis.load(bucket)
    assert in_bucket.paths["weights_sha256"].equals(results.paths["weights_sha256"])
    for name in ("points", "robustness", "transfer", "measures"):
        one, other = (getattr(each, name).drop(columns=MAY_DIFFER, errors="ignore") for each in (in_bucket, results))
        pd.testing.assert_frame_equal(one, other, check_exact=True)
