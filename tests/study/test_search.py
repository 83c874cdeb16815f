"""Searches as data: searchable fields, specs and IDs of trials, and invalid settings."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import fipray as fip
from fipray.study.space import with_fields
from fipray.study.specs import PathSpec
from tests.studies import searching, study

SPEC = fip.PathSpec(
    "one", fip.objectives.WeightedSum(((1.0, fip.objectives.GradientDiversity()), (2.0, fip.objectives.Sparsify(0.5))))
)


def test_fields_are_named_with_dots_through_dataclasses_and_tuples():
    changed = with_fields(SPEC, {"objective.parts.1.1.sparsity": 0.75, "stepper.damping": 0.5, "seed": 3})
    assert isinstance(changed.objective, fip.objectives.WeightedSum)
    assert changed.objective.parts == ((1.0, fip.objectives.GradientDiversity()), (2.0, fip.objectives.Sparsify(0.75)))
    assert changed == replace(SPEC, objective=changed.objective, stepper=fip.steppers.Natural(damping=0.5), seed=3)


def test_a_wrong_name_is_answered_with_the_valid_ones():
    with pytest.raises(
        fip.errors.UsageError, match=r"no field 'radius.tolerence'; it has: .*radius.tolerance.*num_steps"
    ):
        with_fields(SPEC, {"radius.tolerence": 0.1})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"space": {"stepper.bta": fip.search.Uniform(0, 1)}}, "no field 'stepper.bta'; it has: "),
        ({"space": {"stepper.beta": fip.search.Uniform(-1, 1)}}, "stepper.beta=-1.0: beta must be at least 0"),
        ({"space": {"num_steps": fip.search.Uniform(1, 8)}}, "num_steps must be an integer: give Integers"),
        ({"space": {"name": fip.search.Choice(("a",))}}, "name cannot be searched"),
        ({"space": {}}, "needs a field to search"),
        (
            {
                "space": {
                    "stepper": fip.search.Choice((fip.steppers.Natural(),)),
                    "stepper.beta": fip.search.Uniform(0, 1),
                }
            },
            "stepper.beta is a part of stepper",
        ),
        ({"objectives": {"accuracy": "max"}}, "no objective 'accuracy'; valid ones are: functional_distance_held_out"),
        ({"objectives": {"sparsity": "most"}}, "valid ones are: min, max"),
        ({"objectives": {}}, "needs an objective"),
        ({"objectives": {"robust_accuracy": "max"}, "scheduler": "asha"}, "known only at the end of a path"),
        ({"searcher": "bayes"}, "no searcher 'bayes'; valid ones are: random, optuna, grid"),
        ({"scheduler": "sha"}, "no scheduler 'sha'; valid ones are: asha, median, none"),
        ({"scheduler": "pbt"}, "determined by one spec and can be traced again"),
        (
            {"searcher": "grid", "space": {"stepper.beta": fip.search.Uniform(0, 1)}},
            "a grid needs a Choice for each field",
        ),
        ({"grace": 1.0}, "grace must be above 0 and below 1"),
        ({"num_trials": 0}, "num_trials must be at least 1"),
        ({"study": study()}, "study 'small' has 4 paths and 1 ensembles"),
    ],
)
def test_a_search_refuses(changes, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        replace(searching(), **changes)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("domain", "arguments", "sentence"),
    [
        (fip.search.Uniform, (1, 1), "needs finite bounds with low < high"),
        (fip.search.LogUniform, (0, 1), "needs low > 0"),
        (fip.search.Integers, (3, 2), "needs finite bounds with low < high"),
        (fip.search.Choice, ((),), "needs at least one value"),
    ],
)
def test_a_domain_refuses(domain, arguments, sentence):
    with pytest.raises(fip.errors.UsageError, match=sentence):
        domain(*arguments)


def test_equal_values_are_one_path_and_others_another_whose_id_is_that_of_its_spec():
    made = replace(searching(), space={"stepper.beta": fip.search.Uniform(0, 1), "seed": fip.search.Integers(0, 9)})
    (one, first), *_ = made.job({"stepper.beta": 0.5, "seed": 3}).items()
    (same, _), *_ = made.job({"seed": 3, "stepper.beta": 0.5}).items()
    (other, _), *judged = made.job({"stepper.beta": 0.5, "seed": 4}).items()
    assert one == same != other
    assert isinstance(first, PathSpec)
    assert (first.seed, first.stepper) == (3, fip.steppers.FirstOrder(beta=0.5))
    assert one in replace(made.study, paths=(first,)).specs
    assert [spec.name for _, spec in judged] == [made.job({"stepper.beta": 0.5, "seed": 4})[other].name]


def test_a_choice_is_drawn_by_its_place_and_written_down_by_its_value():
    made = replace(
        searching(), space={"stepper": fip.search.Choice((fip.steppers.Natural(), fip.steppers.FirstOrder(beta=2.0)))}
    )
    assert made.values({"stepper": 1}) == {"stepper": fip.steppers.FirstOrder(beta=2.0)}
    assert json.loads(made.config_json({"stepper": 1}))["stepper"]["kind"] == "first_order"


def test_a_search_with_more_trials_is_the_same():
    assert replace(searching(), num_trials=5).manifest["study_id"] == searching().manifest["study_id"]


@pytest.mark.parametrize("changes", [{"searcher": "grid"}, {"scheduler": "median"}, {"seed": 1}, {"grace": 0.5}])
def test_a_search_with_other_settings_is_another(changes):
    assert replace(searching(), **changes).manifest["study_id"] != searching().manifest["study_id"]
