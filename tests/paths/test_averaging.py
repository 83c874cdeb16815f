"""Points that are moving averages of the weights."""

from __future__ import annotations

import pytest
import torch

from fipray.errors import UsageError
from fipray.paths import FirstOrder, OutputDiversity, SaveAt, Scheduled, Sparsify, trace
from tests.problems import mlp, normal

ANCHORS, HELD_OUT = normal(60, 6, seed=1), normal(40, 6, seed=2)
DECAY, STEPS = 0.7, 12


def traced(objective=None, **settings):
    return trace(
        mlp(6, 12, 4),
        objective or OutputDiversity(0.5),
        anchors=ANCHORS,
        held_out=HELD_OUT,
        stepper=FirstOrder(0.5),
        radius=Scheduled(0.05),
        num_steps=STEPS,
        batch_size=30,
        save_at=SaveAt(STEPS),
        **settings,
    )


def test_points_are_moving_averages_of_the_points_of_the_same_path_without_averaging():
    plain, averaged = traced(), traced(averaging=DECAY)
    expected = plain.points[0].weights
    for step, (point, mean) in enumerate(zip(plain.points, averaged.points, strict=True)):
        if step:
            decay = min(DECAY, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * point.weights
        torch.testing.assert_close(mean.weights, expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(plain.weights, averaged.weights)


@pytest.mark.parametrize("objective", [None, Sparsify(0.5)])
def test_a_resumed_path_is_bit_for_bit_the_undisturbed_one(objective):
    given = {"averaging": DECAY} | ({} if objective is None else {"objective": objective})
    whole, paused = traced(**given), traced(**given, until=5)
    assert torch.equal(whole.weights, traced(**given, resume=paused.points).weights)


def test_an_average_is_as_sparse_as_asked():
    path = traced(Sparsify(0.5), averaging=DECAY)
    num_zero = int((path.weights == 0).sum())
    assert num_zero == int((traced(Sparsify(0.5)).weights == 0).sum()) > 0
    assert path.end.sparsity == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("averaging", [-0.1, 1.0])
def test_a_decay_out_of_range(averaging):
    with pytest.raises(UsageError, match="0 or more and below 1"):
        traced(averaging=averaging)


def test_a_path_is_resumed_only_with_the_averaging_that_it_was_walked_with():
    paused = traced(averaging=DECAY, until=5)
    with pytest.raises(UsageError, match=r"was reached with averaging, and averaging=0\.0 was given"):
        traced(resume=paused.points)
    with pytest.raises(UsageError, match="was reached without averaging"):
        traced(averaging=DECAY, resume=traced(until=5).points)
