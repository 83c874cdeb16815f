"""Linear solvers against dense solutions in float64."""

from __future__ import annotations

import pytest
import torch

from fipray.geometry import conjugate_gradients, solve_in_sample_space
from tests.margins import assert_below
from tests.problems import normal


def definite(size: int) -> torch.Tensor:
    factor = normal(size, size)
    return factor @ factor.T + torch.eye(size, dtype=torch.float64)


def test_conjugate_gradients_solve_in_as_many_products_as_unknowns():
    matrix, right = definite(12), normal(12, seed=1)
    answer = conjugate_gradients(lambda v: matrix @ v, right, iterations=14)
    torch.testing.assert_close(answer.solution, torch.linalg.solve(matrix, right), rtol=1e-8, atol=1e-9)
    assert_below(answer.residual, 1e-8)


def test_conjugate_gradients_return_the_true_residual():
    matrix, right = definite(30), normal(30, seed=1)
    answer = conjugate_gradients(lambda v: matrix @ v, right, iterations=5)
    true = torch.linalg.vector_norm(matrix @ answer.solution - right) / torch.linalg.vector_norm(right)
    assert answer.iterations == 5
    assert answer.residual == pytest.approx(float(true), rel=1e-8)


def test_tolerance_ends_the_iterations_and_a_good_start_saves_them():
    matrix, right = definite(30), normal(30, seed=1)
    cold = conjugate_gradients(lambda v: matrix @ v, right, iterations=100, tolerance=1e-6)
    assert cold.residual <= 1e-6
    warm = conjugate_gradients(lambda v: matrix @ v, right, iterations=100, tolerance=1e-6, initial=cold.solution)
    assert warm.iterations <= 1 < cold.iterations < 100


def test_right_side_of_zero_needs_no_product():
    answer = conjugate_gradients(lambda v: v, torch.zeros(3), iterations=5)
    assert answer.iterations == 0
    assert not answer.solution.any()


def test_singular_but_consistent_system_is_solved():
    factor = normal(6, 3)
    matrix = factor @ factor.T
    right = matrix @ normal(6, seed=1)
    answer = conjugate_gradients(lambda v: matrix @ v, right, iterations=20)
    torch.testing.assert_close(matrix @ answer.solution, right, rtol=1e-8, atol=1e-9)


def test_sample_space_solve_is_the_dense_solve_in_weight_space():
    """Woodbury: (J^T J + c I)^-1 l = (l - J^T (J J^T + c I)^-1 J l) / c, to 1e-9."""
    jacobian, slope, shift = normal(8, 20), normal(20, seed=1), 0.3
    small = solve_in_sample_space(jacobian @ jacobian.T, jacobian @ slope, shift=shift)
    dense = torch.linalg.solve(jacobian.T @ jacobian + shift * torch.eye(20, dtype=torch.float64), slope)
    torch.testing.assert_close((slope - jacobian.T @ small) / shift, dense, rtol=1e-9, atol=1e-10)


def test_sample_space_solve_without_a_shift_is_the_pseudo_inverse():
    jacobian = normal(8, 20)
    jacobian[3] = jacobian[2]  # two equal rows: a singular Gram matrix
    gram, right = jacobian @ jacobian.T, jacobian @ normal(20, seed=1)
    torch.testing.assert_close(
        solve_in_sample_space(gram, right, shift=0.0), torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ right
    )
