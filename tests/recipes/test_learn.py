"""The recipe `learn`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fipray as fip
from fipray.errors import DataError, UsageError
from fipray.recipes import learn


def tasks(first: int) -> dict[str, fip.Task]:
    """Two tasks of two classes each, around further corners of the cube in which the base network's classes lie."""
    draws, made = np.random.default_rng(1), {}
    for number, name in enumerate(("one", "two")):
        own = draws.integers(0, 2, 300)
        corners = np.eye(8)[3 + 2 * number + own]
        inputs = (draws.normal(0, 1, (300, 8)) + 3 * corners).astype(np.float32)
        labels = own + (first + 2 * number if first else 0)
        made[name] = fip.Task(inputs[:200], labels[:200], inputs[200:], labels[200:])
    return made


@pytest.mark.parametrize(("scenario", "first"), [("shared", 3), ("task", 0)])
def test_learned_network_knows_the_new_tasks_and_most_of_what_it_knew(module, data, tmp_path, scenario, first):
    recipe = learn(module, tasks(first), data, scenario=scenario, num_stored=200, budget={"steps": 200})
    results = recipe.run(tmp_path / "out")
    assert results.named == {"learned": "two"}
    end = results.tasks[results.tasks["name"] == "two"].set_index("task")["accuracy"]
    assert list(end.index) == ["known", "one", "two"]
    # Over seeds 0 to 4 all three stay above 0.8 in one head, and above 0.9 with a head for each task.
    assert end.min() > 0.6
    said = recipe.outcome(results)
    assert "'known'" in said
    assert "base network" in said


def test_stored_inputs_are_shared_by_the_earlier_tasks_and_their_classes(module, data):
    study = learn(module, tasks(3), data, num_stored=60, budget={"steps": 20}).study
    assert {name: len(inputs) for name, inputs in study.data.sets.items() if name.startswith("stored")} == {
        "stored known": 30,
        "stored one": 30,
        "stored two": 30,
    }
    assert [path.anchors for path in study.paths] == [("stored known",), ("stored known", "stored one")]
    assert [path.start for path in study.paths] == ["base", "one"]


def test_head_grows_for_new_labels_and_predicts_as_before(module, data):
    recipe = learn(module, tasks(3), data, budget={"steps": 20})
    inputs = torch.from_numpy(data.held_out)
    outputs = recipe.design.module(inputs)
    assert outputs.shape[1] == 7
    torch.testing.assert_close(outputs[:, :3], module(inputs))
    # New outputs are at the level of the least likely classes, so few inputs change their class.
    assert float((outputs.argmax(1) == module(inputs).argmax(1)).double().mean()) > 0.95


def test_tasks_that_cannot_be_learned_are_refused(module, data):
    with pytest.raises(UsageError, match="no task to learn"):
        learn(module, {}, data)
    with pytest.raises(UsageError, match="'known' is the name of what the base network knows"):
        learn(module, {"known": tasks(3)["one"]}, data)
    with pytest.raises(UsageError, match="num_stored is the number of stored inputs"):
        learn(module, tasks(3), data, num_stored=1)
    narrow = fip.Task(np.zeros((30, 3), np.float32), np.zeros(30, np.int64))
    with pytest.raises(DataError, match=r"have shape \(3,\), and the anchors \(8,\)"):
        learn(module, {"narrow": narrow}, data)
