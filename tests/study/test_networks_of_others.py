"""Studies of networks in half precision, with frozen layers or with a single logit, up to their exported files."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional

import fipray as fip
from fipray import analysis
from fipray.export import export
from fipray.geometry import FisherRao, functional_distance
from fipray.networks import Network
from fipray.paths import LearnTask, Problem
from fipray.paths.examples import Examples
from fipray.paths.objectives.adversary import divergence
from fipray.robustness import Ensemble, StackedEnsemble
from fipray.study.tensors import accuracy
from tests.problems import mlp, normal

THREAT = fip.ThreatModel("linf", 0.05, -10.0, 10.0)


def network(num_outputs: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, num_outputs)).eval()


def inputs(num: int, seed: int) -> np.ndarray:
    return normal(num, 6, seed=seed).float().clamp(-3, 3).numpy()


def made(module: nn.Module, **changes) -> fip.Study:
    labels = np.arange(30) % changes.pop("num_classes", 3)
    data = fip.Data(inputs(40, 1), inputs(20, 2), inputs(30, 3), labels, bounds=(-10, 10))
    path = fip.PathSpec(
        "one",
        fip.objectives.Sparsify(0.4),
        stepper=fip.steppers.FirstOrder(),
        radius=fip.radii.Scheduled(0.05),
        num_steps=4,
    )
    return fip.Study("s", module, data, (path,), **changes)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_study_in_half_precision_leaves_files_in_half_precision(dtype, suffix, tmp_path):
    module = network().to(dtype)
    fip.LocalRunner().run(made(module), tmp_path / "results")
    base = safetensors.torch.load_file(tmp_path / "results" / "base.safetensors")
    assert all(base[name].dtype == dtype and torch.equal(base[name], t) for name, t in module.state_dict().items())
    results, to = analysis.load(tmp_path / "results"), tmp_path / f"end.{suffix}"
    export(tmp_path / "results", "one", None, to)
    state = safetensors.torch.load_file(to) if suffix == "safetensors" else torch.load(to, weights_only=True)
    weights = torch.from_numpy(results.weights("one"))
    expected = Network.of(module).module_at(weights).state_dict()
    assert all(state[name].dtype == dtype and torch.equal(state[name], tensor) for name, tensor in expected.items())
    arrays = analysis.state_dict(results, results.weights("one"))
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()}, strict=True)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())
    held_out = torch.from_numpy(inputs(20, 2)).to(dtype)
    ours, theirs = (FisherRao().embed(one(held_out).detach().float()) for one in (module, network().to(dtype)))
    said = results.paths["functional_distance_held_out"].item()
    assert said == pytest.approx(float(functional_distance(ours, theirs)), rel=1e-5)


@pytest.mark.parametrize("by", ["requires_grad", "moving"])
def test_a_study_with_frozen_layers_leaves_them_as_they_were(by, tmp_path):
    module = network()
    module[0].requires_grad_(by != "requires_grad")
    study = made(module, moving=("2.*",) if by == "moving" else ())
    fip.LocalRunner().run(study, tmp_path)
    results = analysis.load(tmp_path)
    assert results.weights("one").shape == results.weights("base").shape == (27,)
    state = analysis.state_dict(results, results.weights("one"))
    same = {name: np.array_equal(state[name], tensor.numpy()) for name, tensor in module.state_dict().items()}
    assert same == {"0.weight": True, "0.bias": True, "2.weight": False, "2.bias": False}


def test_a_single_logit_is_judged_as_a_classifier_of_two_classes(tmp_path):
    module = network(1)
    study = made(
        module,
        num_classes=2,
        ensembles=(fip.EnsembleSpec("both", ("base", "one")),),
        evaluation=fip.Evaluation(THREAT, attacks=(fip.attacks.PGD(num_steps=3),), num_examples=30),
    )
    fip.LocalRunner().run(study, tmp_path)
    rows = analysis.load(tmp_path).robustness.query("attack == 'none'").set_index("name")
    with torch.no_grad():
        said = (module(torch.from_numpy(inputs(30, 3)))[:, 0] > 0).numpy()
    assert rows.loc["base", "clean_accuracy"] == (said == np.arange(30) % 2).mean()
    attacked = analysis.load(tmp_path).robustness.query("attack == 'worst'").set_index("name")
    assert (attacked["robust_accuracy"] < rows["clean_accuracy"]).all()
    assert rows.loc["both", "functional_distance_held_out"] > 0


def test_the_accuracy_on_a_task_of_a_single_logit_is_that_of_two_classes():
    of, x = mlp(6, 8, 1), normal(40, 6)
    labels = (of(of.weights, x)[:, 0] > 0).long()
    assert 0 < int(labels.sum()) < 40
    assert accuracy(of, of.weights, Examples(x, labels)) == 1
    assert accuracy(of, of.weights, Examples(x, 1 - labels)) == 0


def test_labels_beyond_the_two_classes_of_a_single_logit_are_refused():
    with pytest.raises(fip.errors.DataError, match=r"2 classes, 0\.\.1, but .* holds 2"):
        made(network(1))


def test_ensembles_of_single_logits_average_the_probabilities_of_two_classes():
    """To 1e-12."""
    of, x = mlp(6, 8, 1), normal(5, 6)
    weights = torch.stack([of.weights, of.weights + 0.3 * normal(of.num_weights, seed=5)])
    p = torch.stack([torch.sigmoid(of(one, x)) for one in weights]).mean(0)
    expected = torch.cat([1 - p, p], 1).log()
    for ensemble in (StackedEnsemble(of, weights), Ensemble([lambda x, w=w: of(w, x) for w in weights])):
        torch.testing.assert_close(ensemble(x), expected, rtol=1e-12, atol=1e-12)


def test_objectives_take_a_single_logit_for_two_classes():
    """To 1e-12: cross-entropy of a Bernoulli variable, and KL divergence of two of them."""
    of, x = mlp(6, 8, 1), normal(5, 6)
    labels = torch.tensor([0, 1, 1, 0, 1])
    where = Problem(of, tasks={"new": Examples(x, labels)})
    where.task("new").check(of)
    z = of(of.weights, x)
    loss = LearnTask("new").value(where, of.weights, where.batch(x))
    expected = functional.binary_cross_entropy_with_logits(z[:, 0], labels.double())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    p, q = torch.sigmoid(z[:, 0]), torch.sigmoid(2 * z[:, 0])
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(divergence(where, 2 * z, where.batch(x).reference), expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(where.batch(x).labels, (z[:, 0] > 0).long())
