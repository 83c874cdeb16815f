"""Damped least squares in sample space against conjugate gradients in weight space and dense solutions, in float64."""

from __future__ import annotations

import pytest
import torch

from fipray.geometry import conjugate_gradients, damped_least_squares
from tests.margins import assert_below
from tests.problems import normal

WIDE, TALL = (6, 40), (40, 6)


def solved(jacobian: torch.Tensor, right: torch.Tensor, shift: float, iterations: int) -> torch.Tensor:
    found = damped_least_squares(
        lambda v: jacobian @ torch.cat(v),
        lambda u: list((jacobian.T @ u).split(4)),
        right,
        shift=shift,
        iterations=iterations,
    )
    return jacobian.T @ found


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_each_iterate_is_that_of_conjugate_gradients_in_weight_space(shape, shift, iterations):
    jacobian, right = normal(*shape), normal(shape[0], seed=1)
    wide = conjugate_gradients(
        lambda x: jacobian.T @ (jacobian @ x) + shift * x, jacobian.T @ right, iterations=iterations
    )
    found = solved(jacobian, right, shift, iterations)
    torch.testing.assert_close(found, wide.solution, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_enough_iterations_give_the_dense_solution_and_more_change_nothing(shape):
    jacobian, right, shift = normal(*shape), normal(shape[0], seed=1), 0.3
    dense = torch.linalg.solve(jacobian.T @ jacobian + shift * torch.eye(shape[1]).double(), jacobian.T @ right)
    torch.testing.assert_close(solved(jacobian, right, shift, 7), dense, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(solved(jacobian, right, shift, 300), dense, rtol=1e-9, atol=1e-10)


def test_without_damping_a_singular_jacobian_gives_the_least_norm_solution():
    jacobian = normal(8, 3) @ normal(3, 20, seed=1)
    right = normal(8, seed=2)
    found = solved(jacobian, right, 0.0, 50)
    torch.testing.assert_close(found, torch.linalg.pinv(jacobian) @ right, rtol=1e-8, atol=1e-9)


def test_in_single_precision_further_iterations_do_not_amplify_rounding():
    jacobian = normal(12, 50)
    jacobian[6:] *= 1e-3  # scales of outputs span decades
    right = normal(12, seed=1)
    exact = jacobian.T @ torch.linalg.solve(jacobian @ jacobian.T + 0.1 * torch.eye(12).double(), right)
    for iterations in (12, 200):
        found = solved(jacobian.float(), right.float(), 0.1, iterations).double()
        assert_below(float(torch.linalg.vector_norm(found - exact) / torch.linalg.vector_norm(exact)), 1e-4)


def test_a_right_side_of_zero_gives_zero():
    assert not solved(normal(*WIDE), torch.zeros(6).double(), 0.1, 5).any()


def test_a_product_that_is_not_finite_gives_nan():
    jacobian = normal(*WIDE)
    jacobian[0, 0] = torch.inf
    assert bool(solved(jacobian, normal(6), 0.1, 3).isnan().any())
