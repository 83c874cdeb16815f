"""Ensembles against the formula written down naively, in float64."""

from __future__ import annotations

import pytest
import torch

from fipray.errors import UsageError
from fipray.robustness import Ensemble
from fipray.robustness.margin import margin_gradient
from tests.problems import normal
from tests.robustness.classifiers import Tanh, images, predictions


def members(count: int, dtype: torch.dtype = torch.float64) -> list[Tanh]:
    return [Tanh.drawn(seed=seed, dtype=dtype) for seed in range(count)]


def naive(inputs: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.softmax(member(inputs), 1) for member in members(3)]).mean(0).log()


def test_an_ensemble_is_the_logarithm_of_the_mean_probability():
    """To 1e-12; its probabilities sum to 1."""
    inputs = images(20, 9)
    outputs = Ensemble(members(3))(inputs)
    torch.testing.assert_close(outputs, naive(inputs), rtol=0, atol=1e-12)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)


def test_its_gradient_is_the_naive_formulas():
    """To 1e-11: outputs weighed at random, by autograd through the softmaxes."""
    weights, found = normal(20, 4, seed=5), []
    for classifier in (Ensemble(members(3)), naive):
        inputs = images(20, 9).requires_grad_()
        found.append(torch.autograd.grad((weights * classifier(inputs)).sum(), inputs)[0])
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def test_its_gradient_is_the_mean_of_the_members_weighed_by_their_probabilities():
    """d log mean_m p_m = sum_m p_m d log p_m / sum_m p_m, for the probability of one class; to 1e-11."""
    inputs = images(20, 9).requires_grad_()
    (found,) = torch.autograd.grad(Ensemble(members(3))(inputs)[:, 1].sum(), inputs)
    logarithms = [torch.log_softmax(member(inputs), 1)[:, 1] for member in members(3)]
    slopes = torch.stack([torch.autograd.grad(each.sum(), inputs)[0] for each in logarithms])
    shares = torch.softmax(torch.stack(logarithms).detach(), 0)
    torch.testing.assert_close(found, (shares[:, :, None] * slopes).sum(0), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_ensemble_of_equals_is_the_member(count):
    """Up to one number an example, to 1e-12: outputs, margins and the margins' gradients."""
    member, inputs, labels = Tanh.drawn(), images(20, 9), torch.arange(20) % 4
    ensemble = Ensemble([member] * count)
    torch.testing.assert_close(ensemble(inputs), torch.log_softmax(member(inputs), 1), rtol=0, atol=1e-12)
    _, *of_ensemble = margin_gradient(ensemble, inputs, labels)
    _, *of_member = margin_gradient(member, inputs, labels)
    torch.testing.assert_close(of_ensemble, of_member, rtol=1e-12, atol=1e-12)


def test_saturated_members_that_agree_keep_a_gradient_where_probabilities_have_none():
    """Logits some 1,000 apart in float32, where the naive formula is log 0."""
    inputs = images(200, 9, dtype=torch.float32)
    calls = torch.stack([predictions(member, inputs) for member in members(3, torch.float32)])
    inputs, labels = inputs[(calls == calls[0]).all(0)], calls[0, (calls == calls[0]).all(0)]
    assert len(labels) > 5
    saturated = [lambda inputs, of=of: 1000 * of(inputs) for of in members(3, torch.float32)]
    outputs, _, gradient = margin_gradient(Ensemble(saturated), inputs, labels)
    assert bool(outputs.isfinite().all())
    assert float(outputs.min()) < -1000
    assert bool(gradient.isfinite().all())
    assert bool((gradient.norm(dim=1) > 1).all())


def test_an_ensemble_without_members_is_refused():
    with pytest.raises(UsageError, match=r"no members: give one classifier or more"):
        Ensemble([])
