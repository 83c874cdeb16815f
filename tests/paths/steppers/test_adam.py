"""Adam's displacement in blocks, against torch.optim.Adam on the whole vector."""

from __future__ import annotations

import pytest
import torch

from fipray.paths.steppers import adam
from tests.problems import normal

SIZES, RATE, DECAYS, WEIGHT = (5, 1, 17, 8), 0.01, (0.9, 0.99), 0.3


@pytest.mark.parametrize("block", [1, 7, 2**19])
@pytest.mark.parametrize("masked", [False, True])
def test_steps_are_adams_whatever_the_blocks(monkeypatch, block, masked):
    monkeypatch.setattr(adam, "BLOCK", block)
    weights = normal(sum(SIZES))
    theirs = weights.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([theirs], lr=RATE, betas=DECAYS)
    mask = (normal(len(weights), seed=1) > 0).double() if masked else torch.ones_like(weights)
    state = adam.first_moments(weights)
    for step in range(3):
        slope, pull = normal(len(weights), seed=2 + step), normal(len(weights), seed=9 + step)
        theirs.grad, before = mask * (slope + WEIGHT * pull), theirs.detach().clone()
        optimizer.step()
        pieces = list(slope.clone().split(SIZES))
        displacement, length = adam.adam_displacement(
            pieces, state, rate=RATE, decays=DECAYS, pull=pull, weight=WEIGHT, mask=mask if masked else None
        )
        torch.testing.assert_close(displacement, mask * (theirs.detach() - before), rtol=1e-9, atol=1e-12)
        assert float(length) == pytest.approx(float(displacement.norm()))


def test_momentum_does_not_lead_into_what_a_mask_has_closed_since():
    state = adam.first_moments(normal(30))
    adam.adam_displacement([normal(30)], state, rate=RATE, decays=DECAYS)
    closed = torch.arange(30) < 12
    displacement, _ = adam.adam_displacement(
        [normal(30, seed=1)], state, rate=RATE, decays=DECAYS, mask=(~closed).double()
    )
    assert torch.equal(displacement == 0, closed)
