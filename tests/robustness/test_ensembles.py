"""Ensembles against the formula written down naively, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from fipray.errors import UsageError
from fipray.networks import Network
from fipray.robustness import PGD, Ensemble, StackedEnsemble
from fipray.robustness.margin import margin_gradient
from tests.margins import assert_above
from tests.problems import generator, mlp, normal
from tests.robustness.classifiers import LINF, Tanh, images, predictions


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


WEIGHTS, TEMPERATURES = (1.0, 6.0, 3.0), (1.0, 0.1, 2.0)


def mixed(inputs: torch.Tensor) -> torch.Tensor:
    """`log sum_m w_m softmax(z_m / T_m)`, written down naively."""
    three = zip(members(3), WEIGHTS, TEMPERATURES, strict=True)
    return sum(w / 10 * torch.softmax(member(inputs) / t, 1) for member, w, t in three).log()


def test_weighted_and_tempered_ensemble_is_the_closed_form():
    """To 1e-12; its probabilities sum to 1."""
    inputs = images(20, 9)
    outputs = Ensemble(members(3), weights=WEIGHTS, temperatures=TEMPERATURES)(inputs)
    torch.testing.assert_close(outputs, mixed(inputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)


def test_attacks_on_a_mixture_follow_the_gradient_of_the_closed_form():
    """Outputs, margins and their gradients, which all gradient attacks descend, to 1e-11; PGD's inputs to 1e-9."""
    mixture = Ensemble(members(3), weights=WEIGHTS, temperatures=TEMPERATURES)
    inputs, labels = images(20, 9), torch.arange(20) % 4
    found, expected = (margin_gradient(of, inputs, labels) for of in (mixture, mixed))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    made = [PGD(8).perturb(of, inputs, labels, LINF, generator()) for of in (mixture, mixed)]
    torch.testing.assert_close(*made, rtol=0, atol=1e-9)


def test_mixture_of_saturated_members_that_agree_keeps_a_gradient_in_float32():
    """At a temperature of 0.1, with logits some 1,000 apart after it, where the closed form is log 0."""
    inputs = images(2_000, 9, dtype=torch.float32)
    first, second = members(2, torch.float32)
    labels = predictions(first, inputs)
    agreed = labels == predictions(second, inputs)
    inputs, labels = inputs[agreed][:20], labels[agreed][:20]
    assert_above(len(labels), 5)
    confident = [lambda inputs, of=of: 100 * of(inputs) for of in (first, second)]
    mixture = Ensemble(confident, weights=(0.01, 0.99), temperatures=(1.0, 0.1))
    outputs, _, gradient = margin_gradient(mixture, inputs, labels)
    assert bool(outputs.isfinite().all())
    assert bool(gradient.isfinite().all())
    assert_above(gradient.norm(dim=1).min().log10(), 0)


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize(("average", "temperatures"), [("probabilities", TEMPERATURES), ("logits", ())])
def test_stacked_ensemble_is_weighted_and_tempered_as_the_ensemble(chunk, average, temperatures):
    """To 1e-12: outputs, margins and the margins' gradients."""
    network, inputs, labels = mlp(9, 7, 4), images(20, 9), torch.arange(20) % 4
    weights = stack(network, 3)
    one_by_one = Ensemble([lambda inputs, of=of: network(of, inputs) for of in weights], average, WEIGHTS, temperatures)
    stacked = StackedEnsemble(network, weights, average, chunk, WEIGHTS, temperatures)
    found, expected = (margin_gradient(of, inputs, labels) for of in (stacked, one_by_one))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_weighted_ensemble_of_logits_is_their_weighted_mean():
    inputs = images(20, 9)
    expected = sum(w / 10 * member(inputs) for member, w in zip(members(3), WEIGHTS, strict=True))
    found = Ensemble(members(3), "logits", weights=WEIGHTS)(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_integer_weights_count_members():
    """A member of weight 2 is a member that is listed twice."""
    first, second = members(2)
    inputs = images(20, 9)
    twice = Ensemble([first, second, second])(inputs)
    torch.testing.assert_close(Ensemble([first, second], weights=(1, 2))(inputs), twice, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": (1.0,)}, r"weights are \(1\.0,\), 1 for 2 members: give one for each member, or none"),
        ({"temperatures": (1.0, 1.0, 1.0)}, r"temperatures are .*, 3 for 2 members"),
        ({"weights": (1.0, 0.0)}, r"weights are \(1\.0, 0\.0\): give finite numbers above 0"),
        ({"temperatures": (1.0, math.inf)}, r"temperatures are \(1\.0, inf\): give finite numbers above 0"),
        ({"weights": (1e-300, 1e300)}, "give numbers whose ratios floating point can hold"),
        ({"average": "logits", "temperatures": (1.0, 2.0)}, "with an average of logits: leave them out"),
    ],
)
def test_weights_and_temperatures_out_of_range_are_refused(settings, says):
    with pytest.raises(UsageError, match=says):
        Ensemble(members(2), **settings)
