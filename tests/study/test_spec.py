"""Studies, specs and data: their work, its IDs, and invalid arguments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray.study.canonical import from_json, to_json
from fipray.study.evaluation import AttackSpec
from tests.studies import data, module, study

ONE = (fip.PathSpec("one", fip.objectives.GradientDiversity()),)
THREAT = fip.ThreatModel("linf", 0.1)


def made(**changes) -> fip.Study:
    return fip.Study(**{"name": "small", "module": module(), "data": data(), "paths": ONE} | changes)


def test_the_work_is_paths_then_attacks_then_transfer():
    kinds = [type(spec).__name__ for spec in study().specs.values()]
    assert kinds == ["PathSpec"] * 4 + ["RobustnessSpec"] * 6 + ["TransferSpec"]


def test_attacks_are_work_of_their_own_where_there_are_more_examples_than_a_chunk():
    specs = study(chunk_size=30).specs.values()
    attacks = [spec for spec in specs if isinstance(spec, AttackSpec) and spec.name == "both"]
    assert [(spec.attack.name, spec.first_example, spec.num_examples) for spec in attacks] == [
        (name, *some) for name in ("fgsm", "pgd-5x1") for some in ((0, 30), (30, 10))
    ]
    assert len(specs) == 4 + 6 * (4 + 1) + 1


def test_no_more_examples_are_attacked_than_there_are():
    few = fip.Evaluation(THREAT, (fip.attacks.FGSM(),), num_examples=250, chunk_size=60)
    specs = [spec for spec in made(evaluation=few).specs.values() if isinstance(spec, AttackSpec)]
    assert [spec.num_examples for spec in specs] == [60, 40] * 2


def test_an_equal_study_has_equal_ids():
    assert list(study().specs) == list(study().specs)
    assert study().manifest == study().manifest


def test_equal_numbers_make_equal_ids_whatever_their_type():
    def path(one: float, zero: float) -> fip.PathSpec:
        radius = fip.radii.Scheduled(one, zero)
        return fip.PathSpec(
            "one",
            fip.objectives.GradientDiversity(),
            fip.steppers.FirstOrder(beta=one),
            radius,
            uncertainty_fraction=zero,
        )

    def found(one: float, zero: float) -> list[str]:
        evaluation = fip.Evaluation(fip.ThreatModel("linf", one, zero, 1), (fip.attacks.FGSM(),), num_examples=10)
        return list(made(paths=(path(one, zero),), evaluation=evaluation).specs)

    assert found(1, 0) == found(1.0, 0.0) == found(np.float32(1), np.int64(0))
    assert found(1, 0) != found(0.5, 0)


def test_work_that_others_need_changes_their_ids_and_no_more():
    before, after = study(sparsity=0.5).path_ids, study(sparsity=0.6).path_ids
    assert {name for name in before if before[name] != after[name]} == {"sparse", "sparse-too"}


def test_other_weights_or_data_or_geometry_change_every_id():
    originals = set(made().specs)
    for changed in (made(module=module(seed=1)), made(data=data(seed=1)), made(geometry=fip.Euclidean())):
        assert not originals & set(changed.specs)


def test_a_base_id_stands_for_the_weights():
    first, second = (made(module=module(seed), base_id="recipe") for seed in (0, 1))
    assert list(first.specs) == list(second.specs)


def together(*members: str, rounds: int = 2, seed: int = 1, others: tuple[str, ...] = ()) -> dict:
    """Arguments of a study of the paths `two` and `one` with a cooperating ensemble."""
    paths = (fip.PathSpec("two", fip.objectives.GradientDiversity(), seed=seed), replace(ONE[0], others=others))
    return {"paths": paths, "ensembles": (fip.EnsembleSpec("e", members, rounds=rounds),)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "../x"}, "is not a valid name for a study"),
        ({"paths": ()}, "has no paths"),
        ({"paths": ONE * 2}, "'one' is used twice"),
        ({"paths": (replace(ONE[0], name="base"),)}, "'base' is used twice"),
        ({"paths": (replace(ONE[0], others=("two",)),)}, "refers to 'two'; it may refer to: nothing yet"),
        ({"ensembles": (fip.EnsembleSpec("e", ("two",)),)}, "refers to 'two'; it may refer to: base, one"),
        (together("base", "one"), "member 'base' is not a path, so it cannot be traced in rounds"),
        (together("one", "base"), "member 'base' is not a path, so it cannot be traced in rounds"),
        (together("one", "two", "one"), "member 'one' is already traced in rounds with ensemble 'e'"),
        (together("one", others=("two",)), "of a cooperating path are the other members: leave others empty"),
        (together("one", rounds=101), "num_steps=100, too few for 101 rounds"),
        (together("one", "two", seed=0), "member 'two' is identical to 'one' and would trace the same path"),
        ({"module": nn.Sequential(nn.Linear(6, 3), nn.Dropout())}, "call module.eval() first"),
        ({"module": nn.Linear(5, 3)}, "does not take inputs of shape [N, 6]"),
        (
            {"data": fip.Data(data().anchors, data().held_out), "evaluation": fip.Evaluation(THREAT)},
            "an evaluation needs test_inputs",
        ),
    ],
)
def test_a_study_refuses(changes, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        made(**changes)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: fip.PathSpec("a b", fip.objectives.GradientDiversity()), "is not a valid name for a path"),
        (
            lambda: fip.PathSpec("one", fip.objectives.GradientDiversity(), num_steps=0),
            "at least 1; 0 and 512 were given",
        ),
        (lambda: fip.PathSpec("one", fip.objectives.Sparsify(1.5)), "below 1; 1.5 was given"),
        (lambda: fip.EnsembleSpec("e", ()), "has no members"),
        (lambda: fip.EnsembleSpec("e", ("one",), rounds=-1), "rounds must be 0 or more, got -1"),
        (lambda: fip.EnsembleSpec("e", ("one",), weights=(1, 2)), "'e': weights are (1.0, 2.0), 2 for 1 members"),
        (
            lambda: fip.EnsembleSpec("e", ("one",), temperatures=(0,)),
            "temperatures are (0.0,): give finite numbers above",
        ),
        (lambda: fip.Evaluation(THREAT, ()), "needs at least one attack"),
        (lambda: fip.Evaluation(THREAT, num_examples=0), "needs at least one example"),
        (lambda: fip.Evaluation(THREAT, chunk_size=0), "holds at least one example; chunk_size=0"),
        (lambda: fip.Evaluation(THREAT, (fip.attacks.PGD(5), fip.attacks.PGD(5))), "more than one is named pgd-5x1"),
        (lambda: fip.Evaluation(fip.ThreatModel("linf", -0.1)), "epsilon is -0.1"),
    ],
)
def test_a_spec_refuses(make, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        make()
    assert sentence in str(refused.value)


class TestData:
    GOOD = data()

    def test_the_same_arrays_have_the_same_digest_and_others_another(self):
        assert data().digest == self.GOOD.digest
        changed = self.GOOD.anchors.copy()
        changed[0, 0] += 1e-6
        assert fip.Data(changed, self.GOOD.held_out).digest != fip.Data(self.GOOD.anchors, self.GOOD.held_out).digest

    @pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.0, 1), (np.float32(0), np.int64(1)), [0, 1]])
    def test_equal_bounds_are_the_same_data(self, bounds):
        assert replace(data(), bounds=bounds).digest == replace(data(), bounds=(0, 1)).digest
        assert replace(data(), bounds=bounds).digest != replace(data(), bounds=(0, 2)).digest

    def test_all_that_there_is_changes_the_digest_whatever_the_machine(self):
        ramp, labels = np.arange(6, dtype="<f4").reshape(2, 3), np.zeros(2, dtype="<i8")
        made = [
            {},
            {"ood_inputs": ramp},
            {"sets": {"one": ramp}},
            {"sets": {"two": ramp}},
            {"tasks": {"one": fip.Task(ramp, labels)}},
            {"tasks": {"one": fip.Task(ramp, labels + 1)}},
            {"tasks": {"one": fip.Task(ramp, labels, ramp / 10, labels)}},
        ]
        digests = [fip.Data(ramp, ramp, **more).digest for more in made]
        assert len(set(digests)) == len(made)
        assert digests[0] == "1952fac9bc3ac411"

    def test_an_array_in_another_memory_order_is_the_same_data(self):
        turned = fip.Data(np.asfortranarray(self.GOOD.anchors), self.GOOD.held_out)
        assert turned.digest == fip.Data(self.GOOD.anchors, self.GOOD.held_out).digest

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            (
                {"anchors": np.full((3, 6), np.nan)},
                "3 of 3 inputs in anchors contain NaN or infinity, the first at index 0",
            ),
            ({"held_out": np.full((3, 6), np.inf)}, "3 of 3 inputs in held_out contain NaN or infinity"),
            ({"anchors": np.zeros((0, 6))}, "one or more inputs, [N, ...], but has shape (0, 6)"),
            (
                {"anchors": torch.zeros(3, 6)},
                "expected a numpy array or a ReferencedArray. Convert it with tensor.numpy()",
            ),
            ({"held_out": np.zeros((3, 5))}, "anchors have (6,) and held_out (5,)"),
            ({"ood_inputs": np.zeros((3, 5))}, "anchors have (6,) and ood_inputs (5,)"),
            ({"test_labels": None}, "test_inputs and test_labels must be given together"),
            ({"test_labels": np.zeros(7, int)}, "100 inputs need 100 labels, but test_labels has shape (7,)"),
            (
                {"test_labels": np.zeros(100)},
                "numpy array [100]; expected a numpy array of integers",
            ),
            ({"test_labels": np.full(100, -1)}, "labels must be 0 or more, but test_labels contains -1"),
            ({"test_inputs": np.full((100, 6), 1.5)}, "outside the bounds 0.0..1.0"),
        ],
    )
    def test_data_refuses(self, changes, sentence):
        arrays = {name: getattr(self.GOOD, name) for name in ("anchors", "held_out", "test_inputs", "test_labels")}
        with pytest.raises(fip.errors.DataError) as refused:
            fip.Data(**arrays | changes)
        assert sentence in str(refused.value)

    def test_only_test_inputs_have_to_lie_within_the_bounds(self):
        arrays = (self.GOOD.anchors, self.GOOD.held_out)
        far, labels = np.full((4, 6), 1.5), np.zeros(4, int)
        fip.Data(*arrays, sets={"test_inputs": far}, tasks={"test_inputs": fip.Task(far, labels)})
        with pytest.raises(fip.errors.DataError, match=r"test_inputs of task 'one' lie in 1\.5\.\.1\.5"):
            fip.Data(*arrays, tasks={"one": fip.Task(far, labels, far, labels)})

    def test_a_study_refuses_labels_outside_the_classes(self):
        wrong = replace(self.GOOD, test_labels=np.full(100, 3))
        with pytest.raises(fip.errors.DataError, match=r"3 classes, 0\.\.2, but test_labels holds 3"):
            made(data=wrong)


def mixture(**settings) -> fip.Study:
    return made(ensembles=(fip.EnsembleSpec("e", ("base", "one"), **settings),), evaluation=fip.Evaluation(THREAT))


def test_ids_of_ensembles_are_those_of_what_they_compute():
    """Weights by their fractions; equal weights and temperatures of 1 are the plain average."""
    plain, weighted = mixture(), mixture(weights=(1, 3))
    assert list(mixture(weights=(2, 2), temperatures=(1, 1)).specs) == list(plain.specs)
    assert list(mixture(weights=(0.25, 0.75)).specs) == list(weighted.specs)
    others = [weighted, mixture(weights=(3, 1)), mixture(temperatures=(1, 0.5)), mixture(temperatures=(0.5, 1))]
    assert len({each.manifest["study_id"] for each in (plain, *others)}) == 5
    same = set(plain.specs) & set(weighted.specs)
    assert {plain.specs[id].label for id in set(plain.specs) - same} == {"attacks on e", "transfer of attacks"}


def test_specs_of_mixtures_survive_json_and_plain_ones_say_nothing_of_them():
    for spec in mixture(weights=(1, 3), temperatures=(1, 0.1)).specs.values():
        assert from_json(to_json(spec)) == spec
    assert not any("mixing" in to_json(spec) for spec in mixture().specs.values())
    plain = fip.EnsembleSpec("e", ("base", "one"))
    assert to_json(plain) == '{"kind":"ensemble","members":["base","one"],"name":"e","rounds":0}'


def test_manifest_says_weights_and_temperatures_of_mixtures_alone():
    described = {"members": ["base", "one"], "average": "probabilities", "dim": 1}
    assert mixture().manifest["ensembles"] == {"e": described}
    found = mixture(weights=(1, 3), temperatures=(1, 2)).manifest["ensembles"]
    assert found == {"e": {**described, "weights": [0.25, 0.75], "temperatures": [1.0, 2.0]}}


def test_temperatures_are_refused_where_outputs_are_averaged_as_they_are():
    ensemble = fip.EnsembleSpec("e", ("base", "one"), weights=(1, 2), temperatures=(1, 2))
    with pytest.raises(fip.errors.UsageError, match=r"ensemble 'e' has temperatures=\(1\.0, 2\.0\), but ensembles of"):
        made(ensembles=(ensemble,), geometry=fip.Euclidean())
    assert made(ensembles=(replace(ensemble, temperatures=()),), geometry=fip.Euclidean()).manifest["ensembles"]
