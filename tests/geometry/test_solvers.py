"""Linear solvers against dense solutions in float64."""

from __future__ import annotations

import math

import pytest
import torch

from fipray.geometry import conjugate_gradients, solve_in_sample_space
from tests import pretend
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


class TestOnGpu:
    """Conjugate gradients that do not ask the device whether they have converged, against those of the CPU."""

    def solved(self, matrix: torch.Tensor, right: torch.Tensor, iterations: int):
        on_host = conjugate_gradients(lambda v: matrix @ v, right, iterations=iterations)
        with pretend.gpu() as gpu:
            there = matrix.to(gpu.device)
            begun = right.to(gpu.device)
            gpu.taken()
            found = conjugate_gradients(lambda v: there @ v, begun, iterations=iterations)
            counts = gpu.taken()
            return on_host, (found.solution.cpu(), found.residual, found.iterations), counts

    @pytest.mark.parametrize(("rank", "iterations"), [(14, 14), (14, 5), (4, 14), (1, 30), (14, 60)])
    def test_iterations_after_convergence_change_nothing(self, rank, iterations):
        rows = normal(rank, 14)
        matrix, right = rows.T @ rows, rows.T @ normal(rank, seed=1)
        on_host, (solution, residual, used), counts = self.solved(matrix, right, iterations)
        torch.testing.assert_close(solution, on_host.solution, rtol=1e-9, atol=1e-9)
        assert residual == pytest.approx(on_host.residual, rel=1e-6, abs=1e-12)
        assert used == on_host.iterations
        assert counts.syncs == (1 if iterations > 32 else 0)

    def test_a_right_hand_side_of_zero_has_the_solution_zero(self):
        _, (solution, residual, used), _ = self.solved(torch.eye(3), torch.zeros(3), 5)
        assert (solution.tolist(), residual, used) == ([0, 0, 0], 0.0, 0)

    @pytest.mark.parametrize("broken", ["matrix", "right"])
    def test_what_is_not_finite_gives_nan(self, broken):
        matrix, right = torch.eye(3), torch.ones(3)
        (matrix if broken == "matrix" else right)[0] = math.nan
        on_host, (solution, residual, _), _ = self.solved(matrix, right, 5)
        assert bool(solution.isnan().all() & on_host.solution.isnan().all())
        assert math.isnan(residual)
