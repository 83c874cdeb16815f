"""Digests of the user's own code: part of the IDs of all work that depends on it."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
import textwrap
from os import environ
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray.study.code import code_of
from tests import studies

OBJECTIVE = """
import enum
import functools
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

import {helpers}
from {helpers} import scaled

SIGN = 1.0
TABLE = {{"power": 2, "names": ("a", "b")}}
WEIGHTS = torch.ones(3)
ACTIVATION = functional.relu
CALLS = 0
CACHE = {{}}


class Colour(enum.Enum):
    RED = 1


def outer(factor):
    def inner(value):
        return factor * value

    return inner


TWICE = outer(2)


class Root:
    def helped(self, value):
        return value.abs()


@functools.lru_cache
def cached(number):
    return number + 1


@dataclass(frozen=True)
class Shrinks(Root):
    \"\"\"What it is.\"\"\"

    power: float = 2.0
    limit: ClassVar[int] = 3

    def value(self, problem, weights, batch):
        \"\"\"The value.\"\"\"
        global CALLS
        CALLS += 1
        CACHE["last"] = CALLS
        # a comment
        value = SIGN * scaled(self.helped(weights)).pow(self.power).mean() + TABLE["power"] + WEIGHTS.sum()
        value = ACTIVATION(value) + Colour.RED.value + TWICE(value) + cached(1) + {helpers}.shifted(value)
        from {helpers} import late

        return late(value) + (lambda one: one + 1)(value) + self.limit

    @property
    def twice(self):
        return 2 * self.power
"""
HELPERS = """
POWER = 1.0


def scaled(value):
    return value * POWER


def shifted(value):
    return value + 1


def late(value):
    return value + 2


def unused(value, weights=None):
    return value
"""


class Sources:
    """Module with an objective, and one that it imports, both of which can be edited."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.helpers = folder, name, f"{name}_helpers"
        self.texts = {name: OBJECTIVE.format(helpers=self.helpers), self.helpers: HELPERS}

    def code(self, *edits: tuple[str, str]) -> dict[str, str]:
        """Digests after these replacements in either file."""
        texts = dict(self.texts)
        for old, new in edits:
            assert any(old in text for text in texts.values()), old
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        for name, text in texts.items():
            (self.folder / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return code_of(importlib.import_module(self.name).Shrinks())


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    # Bytecode is valid for a file's size and time in seconds, which two edits can share.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    made = Sources(tmp_path, f"own_{tmp_path.name.replace('-', '_')}")
    yield made
    for name in made.texts:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (("SIGN = 1.0", "SIGN = -1.0"), "SIGN"),
        (('"power": 2', '"power": 3'), "TABLE"),
        (("torch.ones(3)", "torch.zeros(3)"), "WEIGHTS"),
        (("functional.relu", "functional.gelu"), "ACTIVATION"),
        (("RED = 1", "RED = 2"), "Colour"),
        (("outer(2)", "outer(3)"), "outer.<locals>.inner"),
        (("value.abs()", "value.square()"), "Root.helped"),
        (("number + 1", "number + 2"), "cached"),
        ((".mean() +", ".sum() +"), "Shrinks.value"),
        (("limit: ClassVar[int] = 3", "limit: ClassVar[int] = 4"), "Shrinks"),
        (("return 2 * self.power", "return 3 * self.power"), "Shrinks.twice"),
        (("(lambda one: one + 1)", "(lambda one: one + 2)"), "Shrinks.value"),
        (("POWER = 1.0", "POWER = 2.0"), "POWER"),
        (("value * POWER", "value / POWER"), "scaled"),
        (("return value + 1", "return value + 1.5"), "shifted"),
        (("return value + 2", "return value + 2.5"), "late"),
    ],
)
def test_an_edit_of_what_an_objective_does_changes_its_code_and_is_named(sources, edit, name):
    before, after = sources.code(), sources.code(edit)
    changed = {each.partition(":")[2].partition(" ")[0] for each in before.keys() | after.keys()}
    differ = {each for each in before.keys() | after.keys() if before.get(each) != after.get(each)}
    assert before != after
    assert name in changed
    assert name in {each.partition(":")[2].partition(" ")[0] for each in differ}


@pytest.mark.parametrize(
    "edit",
    [
        ("# a comment", "# another comment\n\n        # and one more"),
        ("The value.", "The value, in other words."),
        ("What it is.", "What it does."),
        ("value = SIGN *", "value = (SIGN) *"),
        ("return value\n", "return value + 7\n"),  # in a function that nothing calls
        ("CALLS = 0", "CALLS = 5"),  # a global that the code changes itself
        ("CACHE = {}", "CACHE = {1: 2}"),
        ("\nSIGN", "\n\n\nSIGN"),
    ],
)
def test_an_edit_that_does_nothing_changes_no_code(sources, edit):
    assert sources.code() == sources.code(edit)


def test_a_version_stands_for_the_code_of_a_class(sources):
    versioned = ("limit: ClassVar[int] = 3", 'version: ClassVar[str] = "1"')
    first = sources.code(versioned)
    assert list(first) == [f"{sources.name}:Shrinks"]
    assert sources.code(versioned, (".mean() +", ".sum() +")) == first
    assert sources.code(("limit: ClassVar[int] = 3", 'version: ClassVar[str] = "2"')) != first


def test_a_global_that_is_set_while_the_program_runs_counts(sources):
    before = sources.code()
    module = sys.modules[sources.name]
    module.SIGN = -1.0
    changed = {name for name, each in code_of(module.Shrinks()).items() if before[name] != each}
    assert changed == {f"{sources.name}:SIGN"}


def test_a_method_that_is_replaced_while_the_program_runs_counts(sources):
    before = sources.code()
    sys.modules[sources.name].Root.helped = lambda self, value: value.square()
    assert code_of(sys.modules[sources.name].Shrinks()) != before


def test_source_that_was_edited_after_it_was_loaded_does_not_stand_for_what_was_loaded(sources):
    before, module = sources.code(), sys.modules[sources.name]
    (sources.folder / f"{sources.name}.py").write_text(
        sources.texts[sources.name].replace("value.abs()", "value.square()")
    )
    now = code_of(module.Shrinks())
    assert now != before
    assert now != sources.code(("value.abs()", "value.square()"))


def test_the_digests_are_the_same_in_every_process(sources):
    code = sources.code()
    script = f"from fipray.study.code import code_of; import {sources.name} as own; print(code_of(own.Shrinks()))"
    places = os.pathsep.join([str(sources.folder), *sys.path])
    # Hashes of this process are seeded otherwise, so that one other process is enough.
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": places, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(code)


def test_code_without_source_counts_by_its_instructions():
    source = textwrap.dedent("""
        from dataclasses import dataclass

        @dataclass(frozen=True)
        class Typed:
            def value(self, problem, weights, batch):
                "Its value."
                return weights.sum() if "a" in {"a", "b", "c"} else 2.0
        """)

    def code(text: str) -> dict[str, str]:
        scope: dict[str, object] = {"__name__": "__main__"}
        exec(compile(text, "<stdin>", "exec"), scope)
        return code_of(scope["Typed"]())  # type: ignore[operator]

    assert set(code(source)) == {"__main__:Typed.value", "__main__:Typed"}
    assert code(source) == code(source.replace("Its value.", "Another word."))
    for old, new in (("weights.sum()", "weights.prod()"), ("2.0", "3.0"), ('"c"', '"d"')):
        assert code(source) != code(source.replace(old, new))


ROUND: list[object] = [1]
ROUND.append(ROUND)


@dataclasses.dataclass(frozen=True)
class LooksAround:
    def value(self, problem, weights, batch):
        return ROUND, os.environ, environ, Path, np.exp, weights


def test_a_list_that_holds_itself_and_the_environment_are_no_trouble(monkeypatch):
    before = code_of(LooksAround())
    monkeypatch.setenv("ANOTHER", "1")
    assert code_of(LooksAround()) == before


def test_nothing_is_said_of_what_is_fiprays_or_torchs():
    assert studies.study().code == {}
    assert studies.study(chunk_size=20).code == {}


def test_a_function_that_a_spec_names_counts(sources):
    sources.code()
    named = code_of(fip.objectives.ZerothOrder(f"{sources.helpers}:unused"))
    assert list(named) == [f"{sources.helpers}:unused"]


class Net(nn.Module):
    def __init__(self, scale: float = 1.0, finish=torch.tanh) -> None:
        super().__init__()
        self.layer, self.scale, self.finish = nn.Linear(6, 3), scale, finish

    def forward(self, inputs):
        return self.finish(self.scale * self.layer(inputs))


class Other(Net):
    def forward(self, inputs):
        return self.finish(2 * self.scale * self.layer(inputs))


def ids(module: nn.Module) -> set[str]:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.1)
    path = fip.PathSpec("p", fip.objectives.GradientDiversity(), stepper=fip.steppers.FirstOrder(beta=0.1))
    return set(fip.Study("s", module.eval(), studies.data(), (path,), base_id="same").specs)


def test_the_code_and_settings_of_the_base_network_are_part_of_all_ids():
    assert ids(Net()) == ids(Net())
    different = [Net(), Other(), Net(2.0), Net(finish=lambda z: z), nn.Sequential(Net(2.0))]
    hooked = Net()
    hooked.register_forward_hook(lambda _, inputs, output: 2 * output)
    found = [ids(module) for module in (*different, hooked)]
    assert len(set.union(*found)) == len(found)


@dataclasses.dataclass(frozen=True)
class Own:
    def value(self, problem, weights, batch):
        return weights.square().sum()


def test_only_what_depends_on_the_code_has_another_id(monkeypatch):
    paths = (
        fip.PathSpec("own", Own()),
        fip.PathSpec("after", fip.objectives.GradientDiversity(), start="own"),
        fip.PathSpec("built-in", fip.objectives.GradientDiversity()),
    )
    study = fip.Study("s", studies.module(), studies.data(), paths)
    before, manifest = study.path_ids, study.manifest
    monkeypatch.setattr(Own, "value", lambda self, problem, weights, batch: weights.abs().sum())
    after = study.path_ids
    assert {name for name in before if before[name] != after[name]} == {"own", "after"}
    assert manifest["study_id"] == study.manifest["study_id"]
    assert manifest["code"] != study.manifest["code"]
