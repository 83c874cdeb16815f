"""Networks of a results directory as modules."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.errors import UsageError
from fipray.robustness import StackedEnsemble
from tests.export import subjects

NAMES = ["base", "sparse", "diverse", "sparse@0.25"]


def inputs(num: int = 7) -> torch.Tensor:
    return torch.from_numpy(subjects.images(num, 9))


def weights(results: analysis.Results, name: str) -> torch.Tensor:
    return torch.stack([torch.from_numpy(results.weights(one)) for one in results.members(name)])


@pytest.mark.parametrize("name", NAMES)
def test_a_module_computes_what_the_study_computed(results, name):
    module = results.module(name)
    network = fip.Network.of(subjects.lenet())
    torch.testing.assert_close(module(inputs()), network(weights(results, name)[0], inputs()), rtol=0, atol=0)
    assert not any(part.training for part in module.modules())
    assert name == "base" or not torch.equal(module(inputs()), subjects.lenet()(inputs()))


def test_an_ensemble_is_the_one_that_was_evaluated(results):
    network = fip.Network.of(subjects.lenet())
    own = results.module("both")(inputs())
    torch.testing.assert_close(own, StackedEnsemble(network, weights(results, "both"))(inputs()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own.exp().sum(1), torch.ones(7))
    row = results.robustness.query("name == 'both' and attack == 'none'").iloc[0]
    tests = torch.from_numpy(subjects.images(20, 3))
    said = results.module("both")(tests).argmax(1).numpy()
    assert row["clean_accuracy"] == pytest.approx((said == np.arange(20) % 3).mean())


def test_an_ensemble_with_weights_and_temperatures_is_the_one_that_was_evaluated(mixed):
    module, network = mixed.module("both", subjects.lenet()), fip.Network.of(subjects.lenet())
    settings = {"member_weights": (1, 2, 5), "temperatures": (1, 0.1, 2)}
    expected = StackedEnsemble(network, weights(mixed, "both"), **settings)
    torch.testing.assert_close(module(inputs()), expected(inputs()), rtol=1e-5, atol=1e-6)
    row = mixed.robustness.query("name == 'both' and attack == 'none'").iloc[0]
    said = module(torch.from_numpy(subjects.images(20, 3))).argmax(1).numpy()
    assert row["clean_accuracy"] == pytest.approx((said == np.arange(20) % 3).mean())


@pytest.mark.parametrize(("average", "mean"), [("probabilities", None), ("outputs", 2.5)])
def test_an_exported_ensemble_has_weights(average, mean):
    members = [nn.Linear(2, 2), nn.Linear(2, 2)]
    for value, member in enumerate(members):
        nn.init.zeros_(member.weight)
        nn.init.constant_(member.bias, 2.0 * value + 1.0)
    found = fip.export.Ensemble(members, average, weights=(1, 3))(torch.ones(1, 2))
    torch.testing.assert_close(found, torch.full((1, 2), np.log(0.5) if mean is None else mean))
    with pytest.raises(ValueError, match=r"1 weights for 2 members: \[1\]"):
        fip.export.Ensemble(members, average, weights=(1,))


@pytest.mark.parametrize("name", ["sparse", "both"])
def test_a_module_is_saved_copied_pickled_and_trained_as_any_other(results, name):
    module = results.module(name)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), results.module(name)):
        assert torch.equal(other(inputs()), module(inputs()))
    other = results.module(name, like=subjects.lenet())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(1.0)
    other.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(other(inputs()), module(inputs()))
    double = module.double()(inputs().double())
    torch.testing.assert_close(double.float(), other(inputs()))
    double.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_statistics_of_batch_normalisation_belong_to_the_exported_state(results):
    """Paths fold re-estimated statistics into scale and shift, so the buffers of the base are those of every end."""
    module, base = results.module("sparse"), subjects.lenet()
    assert torch.equal(module[1].running_mean, base[1].running_mean)
    assert not torch.equal(module[1].running_mean, torch.zeros(4))
    assert not torch.equal(module[1].bias, base[1].bias)
    held_out = torch.from_numpy(subjects.images(20, 2))
    embed = fip.FisherRao().embed
    distance = fip.geometry.functional_distance(embed(module(held_out).detach()), embed(base(held_out).detach()))
    said = results.paths.set_index("name").loc["sparse", "functional_distance_held_out"]
    assert said == pytest.approx(float(distance), rel=1e-5)


def test_the_architecture_is_given_in_several_ways(results):
    wanted = results.module("sparse")(inputs())
    for like in (
        subjects.lenet(),
        "tests.export.subjects:lenet",
        "tests.export.subjects:study",
        subjects.__file__ + ":lenet",
    ):
        assert torch.equal(results.module("sparse", like=like)(inputs()), wanted)
    given = subjects.lenet()
    before = copy.deepcopy(given.state_dict())
    results.module("sparse", like=given)
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())


@pytest.mark.parametrize(
    ("name", "like", "sentence"),
    [
        ("nobody", None, "there are: base, diverse, sparse, sparse@0.25, both"),
        ("sparse@0.3", None, "there are: base, diverse, sparse, sparse@0.25, both"),
        ("sparse", nn.Linear(3, 3), "Linear is not the module of study 'exported': .*Missing key"),
        ("sparse", "tests.export.subjects:half", "Sequential is not the module|is torch.bfloat16 in the module"),
        ("sparse", "tests.export.subjects:nothing", "has no function 'nothing'; it has: broken, counted, half"),
        ("sparse", "tests.export.subjects:broken", "could not make its module: KeyError: 'no weights today'"),
        ("sparse", "nowhere:net", "there is no module 'nowhere'"),
        ("sparse", 7, "cannot be taken from a int: give a module"),
    ],
)
def test_what_fits_no_network_is_refused_with_what_there_is(results, name, like, sentence):
    with pytest.raises(UsageError, match=f"(?s){sentence}"):
        results.module(name, like=like)


def changed(results: analysis.Results, **entries) -> analysis.Results:
    manifest = {key: value for key, value in {**results.manifest, **entries}.items() if value is not None}
    return analysis.Results(**results.frames, manifest=manifest, address=results.address, location=results.location)


def test_without_an_architecture_the_error_says_what_to_give(results):
    with pytest.raises(UsageError, match=r"results hold weights and no code.*\(like=\.\.\. in Python, --like at"):
        changed(results, made_by=None).module("sparse")
    maker = {"function": "tests.export.subjects:unannotated", "parameters": ["num_steps=4"]}
    with pytest.raises(UsageError, match=r"unannotated is not annotated to return a fipray.Study"):
        changed(results, made_by=maker).module("sparse")
    with pytest.raises(UsageError, match="the architecture comes from gone:study, which made the study: there is no"):
        changed(results, made_by={"function": "gone:study", "parameters": []}).module("sparse")
    named = {**results.manifest["parameters"], "module": "tests.export.subjects:lenet"}
    assert isinstance(changed(results, made_by=None, parameters=named).module("base"), nn.Module)


def test_an_architecture_that_computes_something_else_is_pointed_out(results):
    other = subjects.lenet()
    other[2] = nn.GELU()
    with pytest.warns(UserWarning, match="Sequential has other settings or parts than the module of study"):
        results.module("sparse", like=other)


def test_members_that_are_not_complete_are_named(results):
    part = analysis.Results(
        **{**results.frames, "paths": results.paths[results.paths["name"] != "diverse"]},
        manifest=results.manifest,
        address=results.address,
        location=results.location,
    )
    with pytest.raises(UsageError, match="ensemble 'both' lacks its members diverse"):
        part.module("both")


def test_the_manifest_describes_ensembles_and_inputs_and_changes_no_id():
    made = subjects.study()
    named = made.made_by("a:b", ["num_steps=4"])
    assert list(named.specs) == list(made.specs)
    assert named.manifest["study_id"] == made.manifest["study_id"]
    assert named.manifest["made_by"] == {"function": "a:b", "parameters": ["num_steps=4"]}
    assert "made_by" not in made.manifest
    both = {"members": ["base", "sparse", "diverse"], "average": "probabilities", "dim": 1}
    assert json.loads(json.dumps(made.manifest))["ensembles"] == {"both": both}
    described = made.manifest["inputs"]
    assert (described["shape"], described["dtype"]) == ([1, 8, 8], "float32")
    assert 0 <= described["low"] < 0.1 < 0.9 < described["high"] <= 1


def test_an_ensemble_without_classes_averages_outputs(tmp_path):
    module = nn.Linear(4, 1).eval()
    draws = np.random.default_rng(0).random((30, 4), dtype=np.float32)
    spec = fip.PathSpec("walk", fip.objectives.RandomWalk(), num_steps=1)
    ensemble = fip.EnsembleSpec("both", ("base", "walk"))
    made = fip.Study("fit", module, fip.Data(draws[:20], draws[20:]), (spec,), (ensemble,), geometry=fip.Euclidean())
    fip.LocalRunner().run(made, tmp_path)
    found = analysis.load(tmp_path)
    x = torch.from_numpy(draws)
    mean = (found.module("base", module)(x) + found.module("walk", module)(x)) / 2
    torch.testing.assert_close(found.module("both", module)(x), mean)
    assert analysis.facts(found, "both").sparsity is None


def test_an_ensemble_of_single_logits_in_half_precision_has_two_classes_in_float32():
    module = subjects.half()
    x = torch.rand(5, 6).to(torch.bfloat16)
    p = torch.sigmoid(module(x).float())
    expected = torch.cat([1 - p, p], 1).log()
    torch.testing.assert_close(fip.export.Ensemble([module, module])(x), expected, rtol=1e-5, atol=1e-6)
