"""Specs as canonical JSON: round trips, and equal text on every machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

import fipray as fip
from fipray.errors import UsageError
from fipray.study.canonical import decode, digest, encode, from_json, to_json
from tests.studies import Fails, cooperating, study

SPEC = fip.PathSpec(
    "all-of-it",
    fip.objectives.Sparsify(0.75, ramp=None),
    stepper=fip.steppers.Natural(damping=1e-4, iterations=None),
    radius=fip.radii.Scheduled(0.5, 0.25),
    events=(fip.events.ObjectiveBelow(1e-4), fip.events.FunctionalDistanceAbove(0.3)),
    num_steps=7,
    save_at=fip.SaveAt(3),
    others=("a", "b"),
    seed=11,
)


SPECS = [SPEC, *study().specs.values(), *cooperating(rounds=1).specs.values()]
SPECS += list(study(chunk_size=30).specs.values())[4:6]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_spec_survives_json(spec):
    assert from_json(to_json(spec)) == spec
    assert hash(from_json(to_json(spec))) == hash(spec)


def test_infinite_numbers_survive_json_and_nan_is_refused():
    warm = fip.steppers.FirstOrder(temperature=math.inf)
    assert from_json(to_json(warm)) == warm
    assert decode(encode(-math.inf)) == -math.inf
    with pytest.raises(UsageError, match="cannot hold NaN"):
        encode(math.nan)


def test_the_text_is_this_one_on_every_machine():
    path = fip.PathSpec(
        "one", fip.objectives.Sparsify(0.75), events=(fip.events.ObjectiveBelow(1e-4),), num_steps=7, others=("two",)
    )
    assert to_json(path) == (
        '{"anchors":[],"augmentations":[],"batch_size":512,"events":[{"kind":"objective_below","value":0.0001}],"held_out":[],"kind":"path","max_seconds":null,"memory":null,"moving":[],"name":"one","networks":[],"num_steps":7,'
        '"objective":{"kind":"sparsify","num_stages":100,"pattern":{"across":"network","kind":"unstructured"},"ramp":0.6,'
        '"re_estimate":false,"saliency":{"kind":"magnitude"},"shrink":null,"sparsity":0.75,"through":[]},"others":["two"],'
        '"radius":{"growth":1.5,"initial":0.01,"kind":"adaptive_radius","least_gain_ratio":0.1,"shrink":2.0,"tolerance":0.1},'
        '"save_at":{"also":[],"kind":"save_at","num_points":10,"solver_state":true},"seed":0,"start":"base",'
        '"stepper":{"chunk":null,"damping":0.01,"iterations":8,"kind":"natural","precision":"full","warm":false},"uncertainty_fraction":0.0}'
    )
    assert digest(to_json(path)) == "bb0d26620af81ff2"


def test_every_field_changes_the_digest():
    changed = [
        replace(SPEC, name="other"),
        replace(SPEC, objective=fip.objectives.Sparsify(0.75)),
        replace(SPEC, stepper=fip.steppers.Natural(damping=2e-4, iterations=None)),
        replace(SPEC, radius=fip.radii.Scheduled(0.5, 0.2)),
        replace(SPEC, events=SPEC.events[:1]),
        replace(SPEC, num_steps=8),
        replace(SPEC, batch_size=8),
        replace(SPEC, save_at=fip.SaveAt(4)),
        replace(SPEC, others=("a",)),
        replace(SPEC, start="a"),
        replace(SPEC, anchors=("a",)),
        replace(SPEC, augmentations=(fip.augmentations.Shifted(4),)),
        replace(SPEC, memory=fip.objectives.KroneckerMemory(("a",))),
        replace(SPEC, held_out=("a",)),
        replace(SPEC, seed=12),
    ]
    assert len({digest(to_json(spec)) for spec in [SPEC, *changed]}) == 1 + len(changed)


@dataclass(frozen=True)
class OwnNumbers:
    power: float = 2
    count: int = 2


def test_an_integer_where_a_float_is_asked_for_is_written_as_one():
    assert to_json(OwnNumbers()) == to_json(OwnNumbers(2.0)) == to_json(OwnNumbers(power=2))
    assert to_json(OwnNumbers()) != to_json(OwnNumbers(count=3))


def test_texts_that_join_alike_have_different_digests():
    assert digest("ab", "c") != digest("a", "bc")


def test_a_class_of_the_users_own_is_written_as_module_and_class():
    assert encode(Fails("x")) == {"kind": "tests.studies:Fails", "word": "x"}
    assert decode(encode(Fails("x"))) == Fails("x")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"kind": "nothing"}, "'nothing' is not a known kind of spec"),
        ({"kind": "os:path"}, "is not a kind of spec"),
        ({"kind": "trace"}, "'trace' is not a known kind of spec: import the module that registers it first"),
        ({"kind": ["trace"]}, "is not a known kind of spec"),
        ({"sparsity": 0.5}, "None is not a known kind of spec"),
        ({"kind": "sparsify", "sparsty": 0.5}, "has no field 'sparsty'; it has: sparsity, ramp, num_stages"),
        ({"kind": "sparsify"}, "missing a required argument: 'sparsity'"),
        ({"kind": "sparsify", "sparsity": 1.5}, "below 1; 1.5 was given"),
    ],
)
def test_what_is_no_spec_is_refused(data, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        decode(data)
    assert sentence in str(refused.value)


def test_what_is_no_json_is_refused():
    with pytest.raises(fip.errors.UsageError, match="this is not valid JSON"):
        from_json("{")


def test_a_spec_holds_nothing_that_cannot_be_written_down():
    with pytest.raises(fip.errors.UsageError, match="is a Tensor"):
        fip.PathSpec("one", fip.objectives.Toward(torch.zeros(3)))
