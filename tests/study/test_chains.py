"""Paths that start at the ends of other paths, the tasks that they learn, and their rows in the tables."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from fipray.paths import Examples
from fipray.records import Store
from tests.studies import CutOff, Fails, chained

DATA = chained().data
NETWORK = fip.Network.of(chained().module)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> analysis.Results:
    directory = tmp_path_factory.mktemp("chained")
    LocalRunner().run(chained(), directory)
    return analysis.load(directory)


def _weights(results: analysis.Results, name: str) -> torch.Tensor:
    return torch.from_numpy(results.weights(name))


def _accuracy(weights: torch.Tensor, task: fip.Task) -> float:
    assert task.test_inputs is not None
    outputs = NETWORK.outputs(weights, torch.from_numpy(task.test_inputs))
    return float((outputs.argmax(1).numpy() == task.test_labels).mean())


def _traced(spec: fip.PathSpec, results: analysis.Results, anchors: np.ndarray, memory=()) -> fip.WeightPath:
    """Path of the second task, traced without a study."""
    task = DATA.tasks["second"]
    return fip.trace(
        fip.Problem(
            NETWORK.at(_weights(results, spec.start)),
            anchors=torch.from_numpy(anchors),
            held_out=torch.from_numpy(DATA.sets["others"]),
            tasks={"second": Examples(torch.from_numpy(task.inputs), torch.from_numpy(task.labels))},
            memory=memory,
        ),
        spec.objective,
        fip.Settings(
            stepper=spec.stepper,
            radius=spec.radius,
            num_steps=spec.num_steps,
            batch_size=spec.batch_size,
            save_at=spec.save_at,
            seed=spec.seed,
        ),
    )


def test_parents_with_equal_weights_are_told_apart(tmp_path):
    """Paths that differ in their names alone end at the same weights, and their children name each its own parent."""
    first = fip.PathSpec("first", fip.objectives.RandomWalk(), num_steps=2, batch_size=20)
    paths = [first, replace(first, name="second")]
    paths += [replace(first, name=f"from-{path.name}", start=path.name) for path in paths]
    chains = replace(chained(), paths=tuple(paths), ensembles=(), evaluation=None)
    LocalRunner().run(chains, tmp_path)
    found = analysis.load(tmp_path).paths.set_index("name")
    assert found.loc["first", "weights_sha256"] == found.loc["second", "weights_sha256"]
    for parent in ("first", "second"):
        assert found.loc[f"from-{parent}", "parent_path_id"] == found.loc[parent, "path_id"]


def test_a_path_begins_where_the_other_ended(results):
    paths = results.paths.set_index("name")
    assert paths["start"].to_dict() == {
        "half-sparse-learns": "sparse@0.5",
        "learns-first": "base",
        "learns-second": "learns-first",
        "sparse": "base",
        "turns": "learns-second",
    }
    parents = {"half-sparse-learns": "sparse", "learns-second": "learns-first", "turns": "learns-second"}
    for name, row in paths.iterrows():
        begins = results.points[(results.points["name"] == name) & (results.points["step"] == 0)].iloc[0]
        if name in parents:
            assert row["parent_path_id"] == paths.loc[parents[name], "path_id"]
            given = results.weights(row["start"])
        else:
            assert row["parent_path_id"] is None or row["parent_path_id"] != row["parent_path_id"]
            given = NETWORK.weights.numpy()
        stored = analysis.Results.weights(results, name)
        assert begins["functional_distance"] == pytest.approx(0, abs=1e-6)
        assert not np.array_equal(stored, given)
        points = results.points[results.points["name"] == name]
        moved = float(np.linalg.norm(stored - given))
        assert points["weights_distance"].iloc[-1] == pytest.approx(moved, rel=1e-5)
    assert np.array_equal(results.weights("base"), NETWORK.weights.numpy())


def test_a_chained_path_is_what_trace_makes_of_the_others_end(results):
    """The function is kept and measured on the path's own sets."""
    (spec,) = (path for path in chained().paths if path.name == "learns-second")
    path = _traced(spec, results, np.concatenate([DATA.sets["few"], DATA.sets["others"]]))
    assert torch.equal(path.end.weights, _weights(results, "learns-second"))
    row = results.paths.set_index("name").loc["learns-second"]
    assert row["functional_distance_held_out"] == path.end.functional_distance_held_out
    assert row["anchor_bytes"] == 50 * 6 * 4


def test_shifted_copies_are_made_for_the_path_and_count_as_no_memory(tmp_path):
    few = chained()
    image = fip.augmentations.Shifted(copies=2, pixels=1, image=(1, 2, 3))
    (second,) = (path for path in few.paths if path.name == "learns-second")
    study = replace(few, paths=(few.paths[0], second, replace(second, name="shifted", augmentations=(image,))))
    LocalRunner().run(study, tmp_path)
    results = analysis.load(tmp_path)
    assert not np.array_equal(results.weights("learns-second"), results.weights("shifted"))
    assert results.paths.set_index("name")["anchor_bytes"].to_dict() == {
        "learns-first": 150 * 6 * 4,
        "learns-second": 50 * 6 * 4,
        "shifted": 50 * 6 * 4,
    }


def test_every_path_is_judged_on_every_task_that_can_be(results):
    assert len(results.tasks) == 5 * 2
    parents = {row.name: row.start for row in results.paths[["name", "start"]].itertuples(index=False)}
    for row in results.tasks.itertuples():
        task = DATA.tasks[row.task]
        assert row.num_examples == len(task.test_labels)
        assert row.task_number == list(DATA.tasks).index(row.task) + 1
        assert row.accuracy == _accuracy(_weights(results, row.name), task)
        assert row.accuracy_at_start == _accuracy(_weights(results, parents[row.name]), task)
    learned = results.tasks[results.tasks["learned"]]
    assert dict(zip(learned["name"], learned["task"], strict=True)) == {
        "learns-first": "first",
        "learns-second": "second",
        "half-sparse-learns": "second",
    }


def test_zeros_stay_while_a_task_is_learned(results):
    before, after = _weights(results, "sparse@0.5"), _weights(results, "half-sparse-learns")
    assert float((before == 0).double().mean()) >= 0.5 - 1e-3
    layers = torch.cat([torch.full((slot.shape.numel(),), len(slot.shape) > 1) for slot in NETWORK.slots])
    assert torch.equal((before == 0) & layers, (after == 0) & layers)


def test_a_chain_that_was_cut_off_goes_on_where_it_was(tmp_path, results):
    mended = tmp_path / "mended"
    study = chained(stepper=CutOff(str(mended)))
    with pytest.raises(fip.errors.RunError, match=r"2 of 5 .*failed(.|\n)*learns-second: (.|\n)*cut off"):
        LocalRunner().run(study, tmp_path / "results")
    cut = analysis.load(tmp_path / "results")
    assert set(cut.paths["name"]) == {
        "half-sparse-learns",
        "learns-first",
        "sparse",
    }  # paths that depend on a failed one are not started
    mended.touch()
    LocalRunner().run(study, tmp_path / "results")
    resumed = analysis.load(tmp_path / "results")
    whole = chained(stepper=CutOff(str(mended)))
    LocalRunner().run(whole, tmp_path / "whole")
    again = analysis.load(tmp_path / "whole")
    for name in ("learns-second", "turns"):
        assert np.array_equal(resumed.weights(name), again.weights(name))
    kept = cut.paths.set_index("name")["attempt"]
    assert resumed.paths.set_index("name")["attempt"][kept.index].equals(kept)
    columns = ["name", "task", "accuracy", "accuracy_at_start"]
    assert resumed.tasks[columns].equals(again.tasks[columns])


def test_a_path_that_changes_changes_all_that_follow_and_nothing_else():
    study = chained()
    changed = replace(study, paths=(replace(study.paths[0], seed=9), *study.paths[1:]))
    before, after = study.path_ids, changed.path_ids
    assert {name for name in before if before[name] != after[name]} == {"learns-first", "learns-second", "turns"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "nowhere"}, "refers to 'nowhere'; it may refer to: base, learns-first"),
        ({"start": "turns"}, "turns"),
        ({"start": "sparse@0.4"}, "refers to 'sparse@0.4'"),
        ({"anchors": ("few", "fewer")}, "'fewer'.*'few', 'others'"),
        ({"held_out": ("fewer",)}, "'fewer'.*'few', 'others'"),
        ({"objective": fip.objectives.LearnTask("third")}, "'third'.*'first', 'second', 'unjudged'"),
    ],
)
def test_names_that_are_not_there_are_refused_before_anything_is_walked(change, message):
    study = chained()
    paths = [replace(path, **change) if path.name == "learns-second" else path for path in study.paths]
    with pytest.raises(fip.errors.UsageError, match=message):
        replace(study, paths=tuple(paths))


def test_labels_of_a_task_beyond_the_networks_outputs_are_refused():
    task = fip.Task(DATA.anchors[:10], np.full(10, 3))
    with pytest.raises(fip.errors.DataError, match="'more'"):
        replace(chained(), data=replace(DATA, tasks={**DATA.tasks, "more": task}))


def test_members_of_rounds_may_go_on_from_the_end_of_a_path(tmp_path):
    study = chained()
    members = [
        fip.PathSpec(
            name,
            fip.objectives.GradientDiversity(),
            stepper=fip.steppers.FirstOrder(beta=0.1),
            radius=fip.radii.Scheduled(0.05),
            num_steps=4,
            batch_size=50,
            start="learns-first",
            seed=seed,
        )
        for seed, name in enumerate(("a", "b"))
    ]
    together = replace(
        study, paths=(study.paths[0], *members), ensembles=(fip.EnsembleSpec("both", ("a", "b"), rounds=2),)
    )
    LocalRunner().run(together, tmp_path)
    results = analysis.load(tmp_path)
    paths = results.paths.set_index("name")
    assert paths.loc[["a", "b"], "parent_path_id"].tolist() == [paths.loc["learns-first", "path_id"]] * 2
    assert len(results.tasks) == 3 * 2
    assert not np.array_equal(results.weights("a"), results.weights("b"))


def test_an_unreached_variant_says_so(tmp_path):
    study = chained()
    sparse = study.paths[2]
    stopped = replace(sparse, events=(fip.events.FunctionalDistanceAbove(1e-9),))
    with pytest.raises(fip.errors.RunError, match=r"1 of 2 .*failed(.|\n)*half-sparse-learns: .*sparse@0.5"):
        LocalRunner().run(replace(study, paths=(stopped, study.paths[3])), tmp_path)
    assert analysis.load(tmp_path).paths["name"].tolist() == ["sparse"]


def test_a_path_with_a_mistake_leaves_what_follows_it_unbegun(tmp_path):
    study = chained()
    wrong = replace(study.paths[0], objective=Fails("the mistake"))
    with pytest.raises(
        fip.errors.RunError, match=r"2 of 4 .*failed(.|\n)*learns-second: not begun, because learns-first"
    ):
        LocalRunner().run(replace(study, paths=(wrong, *study.paths[1:4])), tmp_path)
    assert set(analysis.load(tmp_path).paths["name"]) == {"sparse", "half-sparse-learns"}


def remembering(stepper: fip.paths.Stepper | None = None) -> fip.Study:
    """Paths with a memory: the second holds that of the first task, the third those of both."""
    whole = chained()
    first, second = whole.paths[:2]
    learns = fip.objectives.WeightedSum(((1.0, second.objective), (2.0, fip.objectives.KroneckerPenalty())))
    second = replace(
        second,
        objective=learns,
        stepper=stepper or fip.steppers.FirstOrder(1.0, held=0.0),
        anchors=(),
        memory=fip.objectives.KroneckerMemory(("few",), fraction=0.9),
    )
    third = replace(
        second, name="third", start="learns-second", memory=fip.objectives.KroneckerMemory(("others",)), seed=5
    )
    return replace(whole, paths=(first, second, third))


def test_what_a_path_remembers_goes_on_to_those_that_begin_at_its_end(tmp_path):
    study = remembering()
    LocalRunner().run(study, tmp_path)
    results = analysis.load(tmp_path)
    paths = results.paths.set_index("name")
    sizes = [int(paths.loc[name, "memory_bytes"]) for name in ("learns-first", "learns-second", "third")]
    assert sizes[0] == 0 < sizes[1] < sizes[2]
    memory, spec = [], study.paths[2]
    for name, start in (("few", "learns-first"), ("others", "learns-second")):
        network = NETWORK.at(_weights(results, start))
        problem = fip.paths.Problem(network)
        settings = fip.objectives.KroneckerMemory((name,), fraction=0.9) if name == "few" else spec.memory
        memory.append(settings.of(problem, torch.from_numpy(DATA.sets[name])))
    path = _traced(spec, results, DATA.anchors, memory)
    assert torch.equal(path.end.weights, _weights(results, "third"))
    assert sizes[2] == sum(metric.num_bytes for metric in memory)
    kept = Store.open(tmp_path).read_weights(*paths.loc["third", ["weights_file", "weights_sha256"]])
    both = fip.paths.packed(memory)
    assert kept.keys() == {"weights", *both}
    assert all(np.array_equal(kept[name], both[name].numpy()) for name in both)


def test_a_path_that_remembers_goes_on_where_it_was_cut_off(tmp_path):
    mended = tmp_path / "mended"
    study = remembering(CutOff(str(mended)))
    with pytest.raises(fip.errors.RunError, match="cut off"):
        LocalRunner().run(study, tmp_path / "results")
    mended.touch()
    LocalRunner().run(study, tmp_path / "results")
    LocalRunner().run(study, tmp_path / "whole")
    resumed, whole = analysis.load(tmp_path / "results"), analysis.load(tmp_path / "whole")
    assert torch.equal(_weights(resumed, "third"), _weights(whole, "third"))


def test_a_memory_of_a_set_that_is_not_there_is_refused():
    whole = remembering()
    with pytest.raises(
        fip.errors.UsageError, match=r"memory names the unknown set 'gone'; the data has the sets 'few', 'others'"
    ):
        replace(
            whole, paths=(*whole.paths[:2], replace(whole.paths[2], memory=fip.objectives.KroneckerMemory(("gone",))))
        )
