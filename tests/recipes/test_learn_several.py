"""The recipe `learn` for networks of several inputs: token IDs and attention mask of an encoder of Hugging Face."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.errors import DataError
from fipray.networks import MultiHead, Packed, for_task
from fipray.recipes import find, learn

HERE = "tests.recipes.test_learn_several"


def source(first: int, num: int = 200) -> dict[str, np.ndarray]:
    """Sequences whose class is told by four of their tokens; two classes from `first`."""
    draws = np.random.default_rng(first)
    labels = draws.integers(0, 2, num) + first
    tokens = draws.integers(20, 40, (num, 6))
    tokens[:, :4] = 2 + 3 * labels[:, None]
    mask = np.ones((num, 6), np.int64)
    mask[:, 5] = 0
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def inputs_of(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: given[name] for name in ("attention_mask", "input_ids")}  # in another order than the data's


def data() -> fip.Data:
    return fip.Data.of(source(0))


def task(first: int) -> fip.Task:
    given, tests = source(2), source(2, 50)
    return fip.Task(inputs_of(given), given["labels"] - 2 + first, inputs_of(tests), tests["labels"] - 2 + first)


def tasks() -> dict[str, fip.Task]:
    return {"two": task(2)}


def own_tasks() -> dict[str, fip.Task]:
    return {"two": task(0)}


def module() -> nn.Module:
    return _trained()


@cache
def _trained() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification  # takes a second to import

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=40, max_position_embeddings=6, id2label={0: "good", 1: "bad"}, **sizes)
    given = {name: torch.from_numpy(array) for name, array in source(0).items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = BertForSequenceClassification(config).eval()
    adam = torch.optim.Adam(made.parameters(), 5e-3)
    for _ in range(30):
        adam.zero_grad()
        made(**given).loss.backward()
        adam.step()
    return made


@pytest.mark.parametrize(("scenario", "made_by"), [("shared", "tasks"), ("task", "own_tasks")])
def test_encoder_learns_a_task_of_several_inputs_and_is_made_again(tmp_path, scenario, made_by):
    named = [f"module={HERE}:module", f"data={HERE}:data", f"tasks={HERE}:{made_by}"]
    given = [*named, f"scenario={scenario}", "budget=120 steps", "beta=60", "rate=0.005"]
    recipe = find("learn").made(given)
    study = recipe.study.made_by("learn", given)
    fip.LocalRunner().run(study, tmp_path / "out")
    results = analysis.load(tmp_path / "out")
    # Over seeds 0 to 4 both are 1.0.
    assert results.tasks["accuracy"].min() > 0.6
    assert len(recipe.design.data.notes) == 1
    learned = results.module("learned")  # from the functions that the manifest names
    rows = torch.from_numpy(data().held_out[:5])
    if scenario == "task":
        assert isinstance(learned, MultiHead)
        assert learned(for_task(rows, 1)).shape == (5, 2)
    else:
        assert isinstance(learned, Packed)
        assert learned.module.config.id2label == {0: "good", 1: "bad", 2: "LABEL_2", 3: "LABEL_3"}
        assert learned(rows).logits.shape == (5, 4)


def test_inputs_of_tasks_are_packed_as_the_data_or_refused():
    given = source(2)
    made = fip.Data(
        anchors=data().anchors, held_out=data().held_out, layout=data().layout, tasks=tasks(), bounds=(0.0, 40.0)
    )
    rows = np.concatenate([given["input_ids"], given["attention_mask"]], 1)
    assert np.array_equal(made.tasks["two"].inputs, rows)
    assert made.tasks["two"].layout == made.layout


def renamed() -> dict[str, np.ndarray]:
    return {"input_ids": source(2)["input_ids"], "token_type_ids": source(2)["attention_mask"]}


def shorter() -> dict[str, np.ndarray]:
    return {name: array.astype(np.int32) if name == "attention_mask" else array for name, array in source(2).items()}


def cut() -> dict[str, np.ndarray]:
    return {name: array[:, :4] for name, array in inputs_of(source(2)).items()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (renamed(), r"task 'other' has input_ids int64 \[N, 6\].*and the data has input_ids"),
        (inputs_of(shorter()), r"attention_mask int32 \[N, 6\]"),
        (cut(), r"input_ids int64 \[N, 4\]"),
        (source(2)["input_ids"], "give several inputs as a dictionary"),
    ],
)
def test_tasks_of_other_inputs_are_refused_before_any_work(given, message):
    with pytest.raises(DataError, match=message):
        learn(_Sum().eval(), {"other": fip.Task(given, source(2)["labels"])}, data())


def test_several_inputs_beside_data_of_one_are_refused():
    with pytest.raises(DataError, match=r"task 'two' has .*and the data has one array"):
        learn(nn.Linear(6, 2).eval(), tasks(), fip.Data(np.eye(6)[:4], np.eye(6)[:4]))
    given = inputs_of(source(2))
    with pytest.raises(DataError, match="its test inputs and its inputs must have the same inputs"):
        fip.Task(given, source(2)["labels"], renamed(), source(2)["labels"])


def test_task_of_takes_what_data_of_takes():
    given = source(2)
    made = fip.Task.of(given, test=source(2, 50))
    assert made.layout == data().layout
    assert sorted(map(tuple, made.inputs[:, :6])) == sorted(map(tuple, given["input_ids"]))
    assert len(made.test_inputs) == 50
    assert fip.Task.of(made) is made
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    pictures = fip.Task.of((pixels, np.zeros(30, np.int64)))
    assert (pictures.inputs.shape, pictures.inputs.dtype, pictures.layout) == ((30, 3, 8, 8), np.float32, None)
    with pytest.raises(DataError, match="no labels that are classes"):
        fip.Task.of(pixels)
    with pytest.raises(DataError, match="a Task already"):
        fip.Task.of(made, limit=3)
    grey = fip.Data.of(np.zeros((30, 1, 8, 8), np.float32))
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    undivided = {"bytes": fip.Task(np.zeros((30, 1, 8, 8), np.uint8), np.zeros(30, np.int64))}
    with pytest.raises(DataError, match="'bytes' are uint8, and the anchors float32: prepare both alike"):
        learn(network, undivided, grey)
    with pytest.raises(DataError, match="task 'unknown': "):
        learn(nn.Linear(6, 2).eval(), {"unknown": 3}, grey)


class _Sum(nn.Module):
    """Two classes from token IDs and mask."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.last((input_ids * attention_mask).float())
