"""Threat models: projections against slow solutions in float64, steps, random starts, tolerances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.robustness import ThreatModel
from tests.margins import assert_below
from tests.problems import generator, normal
from tests.robustness.classifiers import FREE_L2, FREE_LINF, L2, LINF, images

EVERY = [LINF, L2, FREE_LINF, FREE_L2]


def slow_projection(point: Tensor, clean: Tensor, threat_model: ThreatModel) -> Tensor:
    """The nearest point of box and ball [N, D]: clip((point + m clean) / (1 + m)) to the box, with the multiplier m of
    the ball (0, or as large as the ball needs) by bisection.
    """

    def at(multiplier: Tensor) -> Tensor:
        return ((point + multiplier * clean) / (1 + multiplier)).clamp(threat_model.lower, threat_model.upper)

    def fits(multiplier: Tensor) -> Tensor:
        return (at(multiplier) - clean).norm(dim=1, keepdim=True) <= threat_model.epsilon

    low = torch.zeros(len(point), 1, dtype=point.dtype)
    high = torch.full_like(low, 1e6)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = torch.where(fits(middle), low, middle), torch.where(fits(middle), middle, high)
    return at(torch.where(fits(torch.zeros_like(low)), 0, high))


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("spread", [0.05, 1.0, 30.0])
def test_l2_projection_equals_a_slow_solution(epsilon, spread):
    """To 1e-9. Epsilon 3 exceeds most distances to a corner of the box; 0.01 is below the distance to a side."""
    threat_model = ThreatModel("l2", epsilon)
    clean = images(40, 12)
    point = clean + spread * normal(40, 12, seed=1)
    point[0] = clean[0]
    made = threat_model.project(point, clean)
    torch.testing.assert_close(made, slow_projection(point, clean, threat_model), rtol=0, atol=1e-9)


@pytest.mark.parametrize("threat_model", EVERY)
def test_projection_is_the_nearest_allowed_point(threat_model):
    """p is the projection of a when <a - p, q - p> <= 0 for every allowed q; here 200 of them, to 1e-12."""
    clean = images(1, 8).expand(200, 8)
    point = clean + 2 * normal(1, 8, seed=3)
    made = threat_model.project(point, clean)
    others = threat_model.starts(clean, generator(4))
    assert float(((point - made) * (others - made)).sum(1).max()) <= 1e-12


@pytest.mark.parametrize("threat_model", EVERY)
def test_projecting_twice_changes_nothing(threat_model):
    """To 1e-14, some rounding errors of numbers below 1."""
    clean = images(50, 3, 2, 2)
    once = threat_model.project(clean + normal(50, 3, 2, 2, seed=1), clean)
    assert bool(threat_model.contains(once, clean, atol=1e-14).all())
    torch.testing.assert_close(threat_model.project(once, clean), once, rtol=0, atol=1e-14)


@pytest.mark.parametrize("threat_model", EVERY)
def test_allowed_inputs_are_projected_on_themselves(threat_model):
    """To 1e-14."""
    clean = images(50, 7)
    inside = clean + 0.9 * (threat_model.starts(clean, generator()) - clean)
    torch.testing.assert_close(threat_model.project(inside, clean), inside, rtol=0, atol=1e-14)


def test_l2_projection_without_bounds_shortens_the_change():
    """To 1e-14."""
    clean, change = images(20, 6), normal(20, 6, seed=1)
    expected = clean + change * (FREE_L2.epsilon / change.norm(dim=1, keepdim=True)).clamp_max(1)
    torch.testing.assert_close(FREE_L2.project(clean + change, clean), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("threat_model", EVERY)
def test_starts_are_allowed_and_spread_out(threat_model):
    clean = images(500, 60)
    starts = threat_model.starts(clean, generator())
    assert bool(threat_model.contains(starts, clean, atol=1e-14).all())
    assert len(starts.unique(dim=0)) == 500


def test_starts_are_uniform_in_the_ball():
    """In two dimensions a quarter of the disc lies within half its radius and half on each side: to 4 deviations."""
    clean = torch.zeros(20_000, 2, dtype=torch.float64)
    change = FREE_L2.starts(clean, generator())
    near = (change.norm(dim=1) < FREE_L2.epsilon / 2).double().mean()
    assert_below((near - 0.25).abs() / math.sqrt(0.25 * 0.75 / 20_000), 4)
    assert_below(((change[:, 0] > 0).double().mean() - 0.5).abs() / math.sqrt(0.25 / 20_000), 4)
    change = FREE_LINF.starts(clean, generator())
    near = (change.abs().amax(1) < FREE_LINF.epsilon / 2).double().mean()
    assert_below((near - 0.25).abs() / math.sqrt(0.25 * 0.75 / 20_000), 4)


@pytest.mark.parametrize("threat_model", EVERY)
def test_steepest_direction_has_length_one_and_falls_fastest(threat_model):
    """The slope along it is minus the dual norm of the gradient, to 1e-12 of it, however small the gradient is."""
    for size in (1e-200, 1.0, 1e200):
        gradient = size * normal(10, 2, 3)
        direction = threat_model.steepest(gradient)
        lengths = direction.flatten(1).norm(dim=1, p=math.inf if threat_model.norm == "linf" else 2)
        torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-12)
        dual = (gradient / size).flatten(1).norm(dim=1, p=1 if threat_model.norm == "linf" else 2)
        torch.testing.assert_close((direction * gradient / size).flatten(1).sum(1), -dual, rtol=1e-12, atol=0)


@pytest.mark.parametrize("threat_model", EVERY)
def test_gradient_of_zero_or_nan_gives_no_direction(threat_model):
    gradient = torch.tensor([[0.0, 0.0], [math.nan, math.nan]])
    assert not threat_model.steepest(gradient).any()


def test_inputs_that_leave_the_threat_model_are_not_contained():
    clean = torch.full((1, 4), 0.5)
    for threat_model, change in ((LINF, 0.1), (L2, 0.075)):  # |(0.075, 0.075, 0.075, 0.075)| = 0.15
        assert bool(threat_model.contains(clean + change, clean))
        assert not threat_model.contains(clean + change + 1e-5, clean)
        assert not threat_model.contains(clean * math.nan, clean)
        assert not threat_model.contains(clean - change - 1e-5, clean)
        # Each is judged by itself, whatever the others are.
        some = torch.cat([clean + change, clean - change - 1e-5, clean * math.nan, clean])
        assert threat_model.contains(some, clean.expand(4, -1)).tolist() == [True, False, False, True]
    edge = torch.ones(1, 4)
    assert not LINF.contains(edge + 1e-5, edge)
    assert not LINF.contains(-1e-5 * edge, 0 * edge)
    assert bool(FREE_LINF.contains(edge + 0.1, edge))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("l1", 0.1), r"norm is 'l1'; expected 'linf' or 'l2'"),
        (("linf", -0.1), r"epsilon is -0.1: give a finite number of at least 0"),
        (("linf", math.nan), r"epsilon is nan; expected a number"),
        (("l2", math.inf), r"epsilon is inf: give a finite"),
        (("l2", 0.1, 1.0, 1.0), r"the bounds are \[1.0, 1.0\]: give a lower bound below"),
        (("l2", 0.1, 1.0, 0.0), r"the bounds are \[1.0, 0.0\]: give a lower bound below"),
        (("l2", 0.1, math.nan), r"lower is nan; expected a number"),
    ],
)
def test_threat_models_out_of_range_are_refused(arguments, says):
    with pytest.raises(UsageError, match=says):
        ThreatModel(*arguments)
