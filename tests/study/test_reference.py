"""A study by its name, and its knobs as text."""

from __future__ import annotations

from typing import Literal

import pytest

import fipray as fip
from fipray.study import reference
from tests import studies


def knobs(
    *, count: int, share: float = 0.5, kind: Literal["a", "b"] = "a", names: tuple[str, ...] = (), fast: bool = False
):
    raise NotImplementedError


def test_a_function_is_found_by_its_name():
    assert reference.find("tests.studies:study") is studies.study


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tests.studies", "a study is named module:function"),
        (":study", "a study is named module:function"),
        ("tests.nowhere:study", "there is no module 'tests.nowhere'"),
        ("nowhere.at.all:study", "there is no module 'nowhere'"),
        (
            "tests.studies:stduy",
            "has no function 'stduy'; it has: chained, cooperating, data, failing, interrupted, module, searching, "
            "signalling, study, with_a_fourth_class, with_nan",
        ),
        ("tests.studies:NUM_INPUTS", "has no function 'NUM_INPUTS'"),
    ],
)
def test_a_wrong_name_is_refused_with_what_there_is(name, sentence):
    with pytest.raises(fip.UsageError) as refused:
        reference.find(name)
    assert sentence in str(refused.value)


def test_texts_become_what_the_annotations_say():
    assert reference.parse(knobs, ["count=3", "share=1e-3", "kind=b", "fast=true"]) == {
        "count": 3,
        "share": 1e-3,
        "kind": "b",
        "fast": True,
    }


def test_a_value_may_hold_an_equals_sign_and_the_last_of_two_counts():
    assert reference.parse(studies_with_text, ["text=a=b"]) == {"text": "a=b"}
    assert reference.parse(knobs, ["count=3", "count=4"]) == {"count": 4}


def studies_with_text(*, text: str):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (["count"], "given as name=value; 'count' was given"),
        (["cuont=3"], "has no parameter 'cuont'; it has: count, share, kind, names, fast"),
        (["count=three"], "parameter count='three'"),
        (["count=3", "kind=c"], "'a' or 'b'"),
        (["share=much", "count=1"], "parameter share='much'"),
        ([], "the study needs count: give -p count=value"),
    ],
)
def test_wrong_assignments_are_refused(assignments, sentence):
    with pytest.raises(fip.UsageError) as refused:
        reference.parse(knobs, assignments)
    assert sentence in str(refused.value)


def test_a_function_that_returns_no_study_is_refused():
    with pytest.raises(fip.UsageError, match=r"data returned a Data; a study function returns a fipray\.Study"):
        reference.build(studies.data, {}, fip.Study)
