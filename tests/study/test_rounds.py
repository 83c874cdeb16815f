"""Cooperating members: snapshots of each other, rounds as one path, and recovery from failures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from fipray.records import Store
from fipray.study.rounds import RoundSpec
from tests.studies import CutOff, cooperating, module

SAME = ["name", "step", "objective_value", "functional_distance_held_out", "clean_accuracy", "radius", "weights_sha256"]


def run(study: fip.Study, directory: Path) -> analysis.Results:
    LocalRunner().run(study, directory)
    return analysis.load(directory)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> analysis.Results:
    return run(cooperating(), tmp_path_factory.mktemp("results") / "together")


def states(directory: Path) -> list[Path]:
    return sorted(directory.glob("weights/*/*/state-*"))


def test_a_path_that_cooperates_is_one_piece_of_work_a_round():
    specs = list(cooperating().specs.values())
    assert [(spec.name, spec.number) for spec in specs] == [(name, number) for number in (1, 2, 3) for name in "abc"]
    assert all(isinstance(spec, RoundSpec) for spec in specs)
    assert [spec.until(number) for spec in specs[:1] for number in (1, 2, 3)] == [2, 4, 6]


def test_rounds_and_members_decide_the_ids():
    ids = [set(cooperating(rounds=rounds).specs) for rounds in (1, 2, 3)]
    assert not ids[0] & ids[1] | ids[1] & ids[2]


def test_every_member_ends_with_a_row_and_each_step_is_there_once(results):
    assert list(results.paths["name"]) == ["a", "b", "c"]
    assert results.paths["outcome"].str.startswith("all 6 steps were walked; objective ").all()
    assert not results.points.duplicated(["path_id", "step"]).any()
    assert list(results.points.loc[results.points["name"] == "a", "step"]) == [0, 2, 3, 5, 6]
    assert list(results.rounds["step"]) == [2, 4] * 3
    assert set(results.rounds["outcome_kind"]) == {"paused"}


def test_members_see_the_others_as_the_round_before_left_them_and_nobody_in_the_first(results):
    """Compared with the same rounds traced by hand."""
    study, network, points = cooperating(), fip.Network.of(module()), {"a": (), "b": (), "c": ()}
    torch.set_flush_denormal(True)
    try:
        for until in (2, 4, None):
            before = {name: path[-1].weights for name, path in points.items() if path}
            for spec in study.paths:
                path = fip.trace(
                    fip.Problem(
                        network,
                        anchors=torch.from_numpy(study.data.anchors),
                        held_out=torch.from_numpy(study.data.held_out),
                        others=[weights for name, weights in before.items() if name != spec.name],
                    ),
                    spec.objective,
                    fip.Settings(
                        stepper=spec.stepper,
                        radius=spec.radius,
                        num_steps=6,
                        batch_size=50,
                        save_at=spec.save_at,
                        seed=spec.seed,
                    ),
                    resume=points[spec.name],
                    until=until,
                )
                points[spec.name] = path.points
    finally:
        torch.set_flush_denormal(False)
    for name, path in points.items():
        np.testing.assert_array_equal(results.weights(name), path[-1].weights.numpy())


def test_members_that_look_at_nobody_walk_the_paths_that_they_walk_alone(tmp_path):
    """With rejected steps, restrictions and limits, and with rounds that end between saved points."""
    step, settings = fip.steppers.FirstOrder(beta=0.1), {"num_steps": 9, "batch_size": 50}
    sparse = fip.PathSpec("sparse", fip.objectives.Sparsify(0.5), stepper=step, save_at=fip.SaveAt(2), **settings)
    shrinks = fip.radii.Adaptive(initial=1.0, tolerance=0.01)
    refused = fip.PathSpec(
        "refused", fip.objectives.RandomWalk(), stepper=step, radius=shrinks, save_at=fip.SaveAt(4), **settings
    )
    free = fip.PathSpec("limited", fip.objectives.Sparsify(0.5), stepper=step, save_at=fip.SaveAt(9), **settings)
    points = run(replace(cooperating(), paths=(free,), ensembles=()), tmp_path / "free").points
    distances = points["functional_distance"]
    limits = (
        fip.events.FunctionalDistanceAbove(float(distances[2] + distances.max()) / 2),
    )  # reached after the first round
    limited = replace(free, events=limits, save_at=fip.SaveAt())
    alone = replace(cooperating(), paths=(sparse, refused, limited), ensembles=())
    ensemble = fip.EnsembleSpec("all", ("sparse", "refused", "limited"), rounds=4)
    first, second = run(alone, tmp_path / "alone"), run(replace(alone, ensembles=(ensemble,)), tmp_path / "together")
    assert first.points[SAME].equals(second.points[SAME])
    columns = ["name", "outcome", "num_steps", "weights_sha256"]
    assert first.paths[columns].equals(second.paths[columns])
    assert second.paths.set_index("name").loc["limited", "outcome_kind"] == "stopped"
    ended = second.rounds[(second.rounds["name"] == "limited") & (second.rounds["outcome_kind"] == "stopped")]
    assert list(ended["round"]) in ([1, 2, 3], [2, 3], [3])
    assert set(ended["weights_sha256"]) == {second.paths.set_index("name").loc["limited", "weights_sha256"]}


@pytest.mark.parametrize("loses", [None, "state"])
def test_a_member_that_fails_costs_its_round_alone(results, tmp_path, loses):
    """Also when the states of paused paths are lost: then rounds are traced again, with equal results."""
    mended, directory = tmp_path / "mended", tmp_path / "results"
    study = cooperating(stepper=CutOff(str(mended)))
    with pytest.raises(fip.errors.RunError) as failed:
        LocalRunner().run(study, directory)
    said = str(failed.value)
    assert "path a, round 2 of 3: RuntimeError: cut off, raised at " in said
    for name in "abc":
        assert f"path {name}, round 3 of 3: not begun, because round 2 of a failed" in said
    assert len(Store.open(directory).committed()) == 5
    waiting = states(directory)
    assert len(waiting) >= 5
    for state in waiting if loses else ():
        state.write_bytes(state.read_bytes()[:-1])
    before = {file: file.stat().st_mtime_ns for file in (directory / "commits").iterdir()}
    mended.touch()
    again = run(study, directory)
    assert {file: file.stat().st_mtime_ns for file in before} == before, "what was done is not done again"
    assert list(again.rounds["attempt"]) == [1, 2, 1, 1, 1, 1]
    assert again.points[SAME].equals(results.points[SAME])
    assert again.rounds["weights_sha256"].equals(results.rounds["weights_sha256"])
    assert states(directory) == []
    Store.open(directory).verify()


def test_a_path_that_is_done_early_stays_where_it_ended_and_the_others_go_on(tmp_path):
    early = run(cooperating(events=(fip.events.ObjectiveBelow(2.0),)), tmp_path)
    paths = early.paths.set_index("name")
    assert paths.loc["a", "outcome_kind"] == "stopped"
    assert list(paths["num_steps"]) == [2, 6, 6]
    assert set(early.rounds.loc[early.rounds["name"] == "a", "weights_sha256"]) == {paths.loc["a", "weights_sha256"]}
    assert set(early.points.loc[early.points["name"] == "a", "attempt"]) == {1}


def test_what_refers_to_a_member_goes_on_when_its_last_round_is_done(tmp_path):
    """Work that depends on it: a path, attacks on it and on the ensemble, and transfer."""
    together = cooperating(rounds=2, num_steps=2)
    later = fip.PathSpec(
        "later",
        fip.objectives.GradientDiversity(),
        stepper=fip.steppers.FirstOrder(0.1),
        num_steps=1,
        batch_size=50,
        others=("a",),
    )
    evaluation = fip.Evaluation(fip.ThreatModel("linf", 0.05), (fip.attacks.FGSM(),), num_examples=20)
    results = run(replace(together, paths=(*together.paths, later), evaluation=evaluation), tmp_path)
    assert list(results.paths["name"]) == ["a", "b", "c", "later"]
    assert set(results.robustness["name"]) == {"base", "a", "b", "c", "later", "all"}
    assert len(results.transfer) == 36
