"""Study functions by reference, and their parameters as text."""

from __future__ import annotations

import sys
from typing import Literal

import pytest

import fipray as fip
from fipray.study import reference
from fipray.study.canonical import from_json, to_json
from tests import studies


def settings(
    *, count: int, fraction: float = 0.5, kind: Literal["a", "b"] = "a", names: tuple[str, ...] = (), fast: bool = False
):
    raise NotImplementedError


def test_a_function_is_found_by_its_name():
    assert reference.find("tests.studies:study") is studies.study


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tests.studies", "name a study as module:function"),
        (":study", "name a study as module:function"),
        ("tests.nowhere:study", "there is no module 'tests.nowhere'"),
        ("nowhere.at.all:study", "there is no module 'nowhere'"),
        (
            "tests.studies:stduy",
            "has no function 'stduy'; it has: chained, cooperating, data, failing, interrupted, local_search, "
            "measured, module, searching, searching_measures, signalling, study, with_a_fourth_class, with_nan",
        ),
        ("tests.studies:NUM_INPUTS", "has no function 'NUM_INPUTS'"),
    ],
)
def test_a_wrong_name_is_refused_with_what_there_is(name, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        reference.find(name)
    assert sentence in str(refused.value)


def test_texts_become_what_the_annotations_say():
    assert reference.parse(settings, ["count=3", "fraction=1e-3", "kind=b", "fast=true"]) == {
        "count": 3,
        "fraction": 1e-3,
        "kind": "b",
        "fast": True,
    }


def test_a_value_may_hold_an_equals_sign_and_the_last_of_two_counts():
    assert reference.parse(studies_with_text, ["text=a=b"]) == {"text": "a=b"}
    assert reference.parse(settings, ["count=3", "count=4"]) == {"count": 4}


def studies_with_text(*, text: str):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["count"], "must be given as name=value, got 'count'"),
        (["cuont=3"], "has no parameter 'cuont'; it has: count, fraction, kind, names, fast"),
        (["count=three"], "parameter count='three'"),
        (["count=3", "kind=c"], "'a' or 'b'"),
        (["fraction=much", "count=1"], "parameter fraction='much'"),
        ([], "the study needs count: give -p count=value"),
    ],
)
def test_wrong_assignments_are_refused(assignments, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        reference.parse(settings, assignments)
    assert sentence in str(refused.value)


def test_a_function_that_returns_no_study_is_refused():
    with pytest.raises(
        fip.errors.UsageError, match=r"data returned a Data; a study function must return a fipray\.Study"
    ):
        reference.build(studies.data, {}, fip.Study)


STUDY_FILE = """
from dataclasses import dataclass

from sibling import POWER
from tests import studies
import fipray as fip


@dataclass(frozen=True)
class Shrinks:
    power: float = POWER

    def value(self, problem, weights, batch):
        return weights.abs().pow(self.power).mean()


def study(*, num_steps: int = 2):
    path = fip.PathSpec("one", Shrinks(), num_steps=num_steps, batch_size=50)
    return fip.Study("own", studies.module(), studies.data(), (path,))


def breaks():
    return studies.no_such_thing


def leaves():
    raise SystemExit("no data")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder with a study file and a module that it imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "sibling.py").write_text("POWER = 2.0\n")
    (tmp_path / "own_study.py").write_text(STUDY_FILE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("own_study", "sibling", "other", "random"):
        if getattr(sys.modules.get(name), "__file__", "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["own_study.py", "./own_study.py", "{}/own_study.py"])
def test_a_study_in_a_file_is_found_and_its_specs_survive_json(folder, name):
    made = reference.build(reference.find(f"{name.format(folder)}:study"), {"num_steps": 3}, fip.Study)
    assert made.paths[0].num_steps == 3
    assert '"kind":"own_study:Shrinks"' in to_json(made.paths[0])
    assert from_json(to_json(made.paths[0])) == made.paths[0]


def test_a_study_file_that_was_changed_is_read_anew(folder):
    assert reference.find("own_study.py:study") is not None
    (folder / "own_study.py").write_text("def other(): ...\n")
    with pytest.raises(fip.errors.UsageError, match="has no function 'study'; it has: other"):
        reference.find("own_study.py:study")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("def study(:\n", "other.py, line 1: invalid syntax"),
        ("x = 1\n\nraise KeyError('here')\n", "other.py, line 3)"),
        ("import no_such_module_at_all\n", "needs the module 'no_such_module_at_all', which is not installed"),
        ("import sys\nsys.exit(3)\n", "could not be imported: SystemExit: 3"),
    ],
)
def test_a_mistake_in_a_study_file_is_named_with_its_line(folder, content, sentence):
    (folder / "other.py").write_text(content)
    for name in ("./other.py:study", "other:study"):
        sys.path.insert(0, str(folder))
        with pytest.raises(fip.errors.UsageError) as refused:
            reference.find(name)
        assert sentence in str(refused.value)
        assert "other" not in sys.modules


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("breaks", "breaks could not make its study: AttributeError: module 'tests.studies' has no attribute"),
        ("leaves", "leaves could not make its study: SystemExit: no data"),
    ],
)
def test_a_mistake_in_a_study_function_is_named_with_its_line(folder, function, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        reference.build(reference.find(f"own_study.py:{function}"), {}, fip.Study)
    assert sentence in str(refused.value)
    assert f"{folder / 'own_study.py'}, line" in str(refused.value)


def test_files_that_cannot_be_studies_are_refused(folder):
    (folder / "random.py").touch()
    (folder / "my-study.py").touch()
    for name, sentence in (
        ("./nowhere.py:study", "there is no file"),
        ("./random.py:study", "has the name of another module, random"),
        ("./my-study.py:study", "name the file with letters, digits and underscores"),
        ("own_study:", "name a study as module:function"),
    ):
        with pytest.raises(fip.errors.UsageError) as refused:
            reference.find(name)
        assert sentence in str(refused.value)
