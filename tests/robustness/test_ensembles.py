"""Ensembles against the formula written down naively, in float64."""

from __future__ import annotations

import pytest
import torch

from fipray.errors import UsageError
from fipray.networks import Network
from fipray.robustness import Ensemble, StackedEnsemble
from fipray.robustness.margin import margin_gradient
from tests.margins import assert_above
from tests.problems import mlp, normal
from tests.robustness.classifiers import Tanh, images, predictions


def members(count: int, dtype: torch.dtype = torch.float64) -> list[Tanh]:
    return [Tanh.drawn(seed=seed, dtype=dtype) for seed in range(count)]


def naive(inputs: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.softmax(member(inputs), 1) for member in members(3)]).mean(0).log()


def test_ensemble_is_the_logarithm_of_the_mean_probability():
    """To 1e-12; its probabilities sum to 1."""
    inputs = images(20, 9)
    outputs = Ensemble(members(3))(inputs)
    torch.testing.assert_close(outputs, naive(inputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)


def test_ensemble_gradient_is_that_of_the_naive_formula():
    """To 1e-11: outputs weighed at random, by autograd through the softmaxes."""
    weights, found = normal(20, 4, seed=5), []
    for classifier in (Ensemble(members(3)), naive):
        inputs = images(20, 9).requires_grad_()
        found.append(torch.autograd.grad((weights * classifier(inputs)).sum(), inputs)[0])
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def test_ensemble_gradient_is_the_mean_of_members_weighted_by_probabilities():
    """d log mean_m p_m = sum_m p_m d log p_m / sum_m p_m, for the probability of one class; to 1e-11."""
    inputs = images(20, 9).requires_grad_()
    (found,) = torch.autograd.grad(Ensemble(members(3))(inputs)[:, 1].sum(), inputs)
    logarithms = [torch.log_softmax(member(inputs), 1)[:, 1] for member in members(3)]
    slopes = torch.stack([torch.autograd.grad(each.sum(), inputs)[0] for each in logarithms])
    shares = torch.softmax(torch.stack(logarithms).detach(), 0)
    torch.testing.assert_close(found, (shares[:, :, None] * slopes).sum(0), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_ensemble_of_equal_members_is_the_member(count):
    """Up to one number an example, to 1e-12: outputs, margins and the margins' gradients."""
    member, inputs, labels = Tanh.drawn(), images(20, 9), torch.arange(20) % 4
    ensemble = Ensemble([member] * count)
    torch.testing.assert_close(ensemble(inputs), torch.log_softmax(member(inputs), 1), rtol=0, atol=1e-12)
    _, *of_ensemble = margin_gradient(ensemble, inputs, labels)
    _, *of_member = margin_gradient(member, inputs, labels)
    torch.testing.assert_close(of_ensemble, of_member, rtol=1e-12, atol=1e-12)


def test_saturated_members_that_agree_keep_a_gradient_where_probabilities_have_none():
    """Logits some 1,000 apart in float32, where the naive formula is log 0."""
    inputs = images(20_000, 9, dtype=torch.float32)
    calls = torch.stack([predictions(member, inputs) for member in members(3, torch.float32)])
    agreed = (calls == calls[0]).all(0)
    inputs, labels = inputs[agreed][:20], calls[0, agreed][:20]
    assert_above(len(labels), 5)
    saturated = [lambda inputs, of=of: 1000 * of(inputs) for of in members(3, torch.float32)]
    outputs, _, gradient = margin_gradient(Ensemble(saturated), inputs, labels)
    assert bool(outputs.isfinite().all())
    assert_above((-outputs.min()).log10(), 3)
    assert bool(gradient.isfinite().all())
    assert_above(gradient.norm(dim=1).min().log10(), 0)


def test_ensemble_without_members_is_refused():
    with pytest.raises(UsageError, match=r"no members: give one classifier or more"):
        Ensemble([])


def stack(network: Network, count: int) -> torch.Tensor:
    return network.weights + 0.3 * normal(count, network.num_weights, seed=7)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("chunk", [None, 2])
def test_stacked_ensemble_is_the_ensemble_of_its_members(average, chunk):
    """To 1e-12: outputs, margins and the margins' gradients."""
    network, inputs, labels = mlp(9, 7, 4), images(20, 9), torch.arange(20) % 4
    weights = stack(network, 5)
    one_by_one = Ensemble([lambda inputs, of=of: network(of, inputs) for of in weights], average)
    stacked = StackedEnsemble(network, weights, average, chunk)
    torch.testing.assert_close(stacked.member_outputs(inputs), one_by_one.member_outputs(inputs), rtol=0, atol=1e-12)
    found, expected = (margin_gradient(of, inputs, labels) for of in (stacked, one_by_one))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_ensemble_of_logits_is_their_mean():
    inputs = images(20, 9)
    expected = sum(member(inputs) for member in members(3)) / 3
    torch.testing.assert_close(Ensemble(members(3), "logits")(inputs), expected, rtol=0, atol=1e-12)


def test_confident_member_decides_the_mean_of_logits_but_not_of_probabilities():
    member = Tanh.drawn()
    inputs = images(20, 9)
    three = [member, member, lambda inputs: 100 * member(inputs).roll(1, 1)]
    agreed, sure = predictions(member, inputs), predictions(three[2], inputs)
    assert torch.equal(predictions(Ensemble(three, "logits"), inputs), sure)
    assert not torch.equal(predictions(Ensemble(three), inputs), sure)
    assert torch.equal(predictions(Ensemble(three[:2]), inputs), agreed)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ensemble(members(2), "votes"), r"average is 'votes'; expected 'probabilities' or 'logits'"),
        (lambda: StackedEnsemble(mlp(3, 2), torch.zeros(0, 8)), r"no members: give one classifier or more"),
    ],
)
def test_ensembles_of_other_things_are_refused(make, says):
    with pytest.raises(UsageError, match=says):
        make()
