"""Steps along orthogonal matrices, against singular value decompositions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.networks import Network
from fipray.paths import FirstOrder, GradientDiversity, Situation
from fipray.paths.objectives import Sparsify
from fipray.paths.steppers.orthogonal import RMS, orthogonalise, polar
from fipray.testing import CorrectorContract, RestrictedStepperContract
from tests.problems import batch, mlp, normal, problem


class TestOrthogonalFirstOrder(RestrictedStepperContract, CorrectorContract):
    stepper = FirstOrder(beta=0.1, orthogonal=True)


def composed(values):
    """The two polynomials, written once more."""
    first = 7.3625 * values - 20.7434 * values**3 + 15.1606 * values**5
    return 2.9175 * first - 2.1824 * first**3 + 0.4755 * first**5


@pytest.mark.parametrize("shape", [(3, 20, 30), (2, 30, 20), (1, 16, 16)])
@pytest.mark.parametrize("scale", [1e-40, 1.0, 1e30])
def test_singular_vectors_stay_and_values_follow_the_polynomials(shape, scale):
    matrices = normal(math.prod(shape)).view(shape)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    bound = values.pow(4).sum(-1, keepdim=True) ** 0.25
    expected = left @ torch.diag_embed(composed(values / bound)) @ right
    torch.testing.assert_close(polar(scale * matrices), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_values_are_near_one_whatever_the_spectrum(spread):
    left, _, right = torch.linalg.svd(normal(40 * 60).view(1, 40, 60), full_matrices=False)
    values = torch.exp(-spread * torch.linspace(0, 1, 40, dtype=torch.float64)).view(1, 40)
    bound = values.pow(4).sum(-1, keepdim=True) ** 0.25
    found = torch.linalg.svdvals(polar(left @ torch.diag_embed(values) @ right))
    near = values >= 0.031 * bound
    assert near.sum() >= 20
    assert float((found[near] - 1).abs().max()) < 0.39
    assert float(found.max()) < 1.39


def test_the_largest_values_of_a_float32_matrix_of_rank_one_are_kept():
    matrix = torch.outer(torch.arange(1.0, 21.0), torch.arange(1.0, 31.0))[None]
    found = torch.linalg.svdvals(polar(matrix))[0]
    assert found[0] == pytest.approx(1, abs=0.39)
    assert float(found[1]) < 1e-3


def test_a_matrix_of_zeros_does_not_move():
    assert torch.equal(polar(torch.zeros(2, 16, 20)), torch.zeros(2, 16, 20))


def test_steps_are_adams_but_for_matrices():
    where, radius = problem(mlp(20, 24, 3)), 1e-2
    inputs = batch(where, 8, 20)
    start = where.start + 0.05 * normal(where.network.num_weights, seed=5)
    (matrix,) = where.network.matrices
    assert matrix.shape == (24, 20)
    states = {}
    for orthogonal in (False, True):
        stepper = FirstOrder(beta=0.3, orthogonal=orthogonal)
        now, state = start, stepper.begin(where)
        for _ in range(2):
            situation = Situation(where, GradientDiversity(), now, inputs, radius)
            made = stepper.propose(situation, state)
            state = made.state  # at the same weights twice, so that both have the same moments
        states[orthogonal] = made, state
    (plain, moments), (own, own_moments) = states[False], states[True]
    torch.testing.assert_close(own_moments["mean"], moments["mean"], rtol=1e-12, atol=1e-15)
    there = torch.zeros(where.network.num_weights, dtype=torch.bool)
    there[matrix.start : matrix.stop] = True
    torch.testing.assert_close(own.displacement[~there], plain.displacement[~there], rtol=1e-12, atol=1e-15)
    rate = radius / where.network.num_weights**0.5
    expected = -rate * RMS * 24**0.5 * polar(moments["mean"][there].view(1, 24, 20)).flatten()
    torch.testing.assert_close(own.displacement[there], expected, rtol=1e-9, atol=1e-12)
    assert float(own.length) == pytest.approx(float(own.displacement.norm()))
    assert float(own.displacement[there].square().mean().sqrt()) == pytest.approx(rate * RMS, rel=0.4)


def test_nothing_moves_where_a_mask_is_zero():
    network = problem(mlp(20, 24, 3)).network
    momentum, mask = normal(network.num_weights), (normal(network.num_weights, seed=1) > 0).double()
    displacement = torch.zeros_like(momentum)
    length = orthogonalise(network, displacement, momentum, 0.1, mask)
    assert torch.equal(displacement == 0, (mask == 0) | (network.matrices[0].stop <= torch.arange(len(mask))))
    assert float(length) == pytest.approx(float(displacement.norm()))


def test_matrices_are_those_of_layers_and_wide_enough():
    module = nn.ModuleDict(
        {
            "embedding": nn.Embedding(50, 32),
            "narrow": nn.Conv2d(1, 32, 3),
            "conv": nn.Conv2d(3, 32, 3),
            "grouped": nn.Conv2d(32, 32, 3, groups=2),
            "attention": nn.MultiheadAttention(32, 2),
            "norm": nn.LayerNorm(32),
            "head": nn.Linear(32, 10),
        }
    )
    network = Network.of(module)
    assert [slot.name for slot in network.matrices] == [
        "conv.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]


def test_zeros_stay_zero_while_a_path_prunes_with_orthogonal_steps():
    teacher, inputs = mlp(20, 64, 5), normal(400 * 20).view(400, 20)
    path = fip.trace(
        teacher,
        Sparsify(0.8, ramp=0.5),
        anchors=inputs[:300],
        held_out=inputs[300:],
        stepper=FirstOrder(orthogonal=True),
        radius=fip.radii.Scheduled(0.1, warmup=0.1),
        num_steps=60,
        batch_size=64,
        averaging=0.9,
        save_at=fip.SaveAt(5),
    )
    early, end = (path.points[-2].weights, path.points[-1].weights)
    assert float((end == 0).double().mean()) > 0.75
    assert torch.equal(end[early == 0], torch.zeros(int((early == 0).sum())).double())
    assert not torch.equal(end, early)


def test_a_resumed_path_is_the_uninterrupted_one():
    where = mlp(20, 24, 3)
    inputs = normal(200 * 20).view(200, 20)
    given = {
        "anchors": inputs[:150],
        "held_out": inputs[150:],
        "stepper": FirstOrder(beta=0.1, orthogonal=True),
        "radius": fip.radii.Scheduled(0.1),
        "num_steps": 12,
        "batch_size": 32,
    }
    whole = fip.trace(where, GradientDiversity(), **given)
    first = fip.trace(where, GradientDiversity(), until=5, **given)
    second = fip.trace(where, GradientDiversity(), resume=first.points, **given)
    assert torch.equal(whole.points[-1].weights, second.points[-1].weights)
