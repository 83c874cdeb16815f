"""Kinds of jobs: every class of specs has one, and a class without one is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from fipray.execution.kinds import ARTIFACT_TABLES, KINDS, artifacts_of, kind_for
from fipray.study.study import Spec
from tests.studies import cooperating, study

SPECS = [*study(chunk_size=15).specs.values(), *cooperating().specs.values()]


def test_every_class_of_specs_has_a_kind():
    assert set(KINDS) == set(get_args(Spec)) == {type(spec) for spec in SPECS}
    assert {kind_for(spec) for spec in SPECS} == set(KINDS.values())


def test_class_without_a_kind_is_refused_by_name():
    with pytest.raises(TypeError, match="no kind of job is registered for NoneType"):
        kind_for(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.label)
def test_releases_name_results_of_the_study(spec):
    assert set(spec.releases) <= {each.produces for each in SPECS if each.produces}


def test_labels_are_distinct_within_a_study():
    for made in (study(chunk_size=15), cooperating()):
        labels = [spec.label for spec in made.specs.values()]
        assert len(set(labels)) == len(labels)


def test_steps_of_rounds_follow_each_other():
    rounds = [spec for spec in cooperating(rounds=3, num_steps=7).specs.values() if spec.name == "a"]
    assert [(spec.first_step, spec.last_step) for spec in rounds] == [(0, 2), (2, 4), (4, 7)]
    assert [spec.releases for spec in rounds] == [(), (), ("round 1 of a", "round 2 of a", "a")]
    assert replace(rounds[0], num_rounds=1).last_step == 7


def test_artifacts_come_from_their_tables_alone():
    assert artifacts_of({}) == {}
    assert set(ARTIFACT_TABLES) == {"paths", "variants", "rounds", "per_example"}
