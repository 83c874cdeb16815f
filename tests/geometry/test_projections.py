"""Projections on the null space, and least-norm corrections, against dense pseudo-inverses in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fipray.errors import UsageError
from fipray.geometry import Euclidean, FisherRao, Metric, NullSpace, Sweeps, minimal_residual
from fipray.networks import Network
from tests.margins import assert_above, assert_below
from tests.problems import mlp, normal

CLOSE = {"rtol": 1e-8, "atol": 1e-8}
EXACT = {"iterations": 200, "tolerance": 1e-11}


def fully_connected() -> tuple[Network, Tensor]:
    return mlp(6, 9, 4), normal(7, 6)


def convolutional() -> tuple[Network, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)
        )
    return Network.of(module.double()), normal(8, 1, 8, 8)


CASES = [
    pytest.param(make, geometry, id=f"{make.__name__}-{type(geometry).__name__}")
    for make in (fully_connected, convolutional)
    for geometry in (FisherRao(), Euclidean(scale=0.5))
]


def rows(network: Network, inputs: Tensor, geometry) -> Tensor:
    return Metric(network, network.weights, inputs, geometry).jacobian()


def inverse(jacobian: Tensor) -> Tensor:
    return torch.linalg.pinv(jacobian, rtol=1e-10)


@pytest.mark.parametrize(("make", "geometry"), CASES)
class TestNullSpace:
    def test_projection_is_the_dense_one(self, make, geometry):
        network, inputs = make()
        jacobian, v = rows(network, inputs, geometry), normal(network.num_weights, seed=2)
        found = NullSpace(network, network.weights, inputs, geometry, chunk=3).project(v, **EXACT)
        torch.testing.assert_close(found.vector, v - inverse(jacobian) @ (jacobian @ v), **CLOSE)

    def test_correction_is_the_shortest_one(self, make, geometry):
        network, inputs = make()
        jacobian = rows(network, inputs, geometry)
        right = jacobian @ normal(network.num_weights, seed=3)
        space = NullSpace(network, network.weights, inputs, geometry, chunk=3)
        found = space.least_norm(right.view(len(inputs), -1), **EXACT)
        torch.testing.assert_close(found.vector, inverse(jacobian) @ right, **CLOSE)
        assert_below(found.residual, 1e-9)

    def test_mask_gives_the_projection_of_the_masked_rows(self, make, geometry):
        network, inputs = make()
        mask = (normal(network.num_weights, seed=4) > -0.5).double()
        jacobian, v = rows(network, inputs, geometry) * mask, normal(network.num_weights, seed=2)
        space = NullSpace(network, network.weights, inputs, geometry, allowed=lambda vector: vector * mask)
        found = space.project(v, **EXACT).vector
        torch.testing.assert_close(found, mask * v - inverse(jacobian) @ (jacobian @ v), **CLOSE)
        assert not found[mask == 0].any()

    def test_duplicate_inputs_change_nothing(self, make, geometry):
        network, inputs = make()
        v = normal(network.num_weights, seed=2)
        once, twice = (
            NullSpace(network, network.weights, given, geometry, chunk=3).project(v, **EXACT).vector
            for given in (inputs, torch.cat([inputs, inputs[:2]]))
        )
        torch.testing.assert_close(twice, once, **CLOSE)

    def test_recomputed_passes_equal_stored_ones(self, make, geometry):
        network, inputs = make()
        v, right = normal(network.num_weights, seed=2), normal(len(inputs), 4, seed=3)
        kept = NullSpace(network, network.weights, inputs, geometry, chunk=3)
        anew = NullSpace(network, network.weights, inputs, geometry, chunk=3, kept_bytes=0)
        assert (kept.keeps, anew.keeps) == (True, False)
        assert torch.equal(kept.j(v), anew.j(v))
        assert torch.equal(kept.jt(right), anew.jt(right))
        assert torch.equal(kept.project(v, iterations=5).vector, anew.project(v, iterations=5).vector)

    def test_residual_is_the_measured_one(self, make, geometry):
        network, inputs = make()
        jacobian, v = rows(network, inputs, geometry), normal(network.num_weights, seed=2)
        space = NullSpace(network, network.weights, inputs, geometry)
        found = space.project(v, iterations=4, tolerance=0.0, block=None)
        measured = torch.linalg.vector_norm(jacobian @ found.vector) / torch.linalg.vector_norm(jacobian @ v)
        assert found.iterations == 4
        assert found.residual == pytest.approx(float(measured), rel=1e-9)
        assert_above(math.log10(found.residual), -8)
        assert_below(found.residual, 1)


def test_projection_and_a_correction_share_one_solve():
    network, inputs = fully_connected()
    jacobian, v, e = rows(network, inputs, FisherRao()), normal(network.num_weights, seed=2), normal(7, 4, seed=3)
    e = (jacobian @ jacobian.T @ e.flatten()).view_as(e)
    space = NullSpace(network, network.weights, inputs, FisherRao())
    apart = space.project(v, **EXACT).vector + space.least_norm(e, **EXACT).vector
    together = v - space.least_norm(space.j(v) - e, **EXACT).vector
    torch.testing.assert_close(together, apart, **CLOSE)


def test_distance_that_no_weights_can_undo_stays_in_the_residual():
    network, inputs = fully_connected()
    metric = Metric(network, network.weights, inputs, FisherRao())
    space = NullSpace(network, network.weights, inputs, FisherRao())
    found = space.least_norm(metric.embedded, iterations=50)  # off the sphere, to which J is tangent
    assert_below(abs(found.residual - 1), 1e-6)


def test_direction_without_effect_is_unchanged():
    network, inputs = fully_connected()
    still = Network.of(network.module_at(network.weights))
    inputs = inputs.clone()
    inputs[:, 2] = 0
    v = torch.zeros(still.num_weights, dtype=torch.float64)
    v[2 : 9 * 6 : 6] = 1.0  # the weights from an input that is always 0
    found = NullSpace(still, still.weights, inputs, FisherRao()).project(v)
    assert torch.equal(found.vector, v)
    assert (found.residual, found.iterations) == (0.0, 0)


def test_float32_reaches_a_thousandth_on_saturated_outputs():
    network, inputs = mlp(6, 30, 4, seed=3), normal(40, 6)
    sure = Network.of(network.module_at(12 * network.weights).float())
    found = NullSpace(sure, sure.weights, inputs.float(), FisherRao()).project(
        normal(sure.num_weights).float(), tolerance=1e-4
    )
    assert_below(found.residual, 1e-3)


def test_null_space_refuses_settings_out_of_range():
    network, inputs = fully_connected()
    with pytest.raises(UsageError, match="above 0"):
        NullSpace(network, network.weights, inputs, FisherRao(), damping=0)
    with pytest.raises(UsageError, match="at least one"):
        NullSpace(network, network.weights, inputs, FisherRao(), chunk=0)
    space = NullSpace(network, network.weights, inputs, FisherRao())
    with pytest.raises(UsageError, match="at least one"):
        space.project(network.weights, restart=0)


def test_gmres_restarts_when_the_basis_is_full():
    network, inputs = fully_connected()
    jacobian, v = rows(network, inputs, Euclidean()), normal(network.num_weights, seed=2)
    space = NullSpace(network, network.weights, inputs, Euclidean())
    found = space.project(v, iterations=2000, tolerance=1e-9, block=None, restart=12)
    assert_above(math.log(found.iterations / 12), 0)
    assert_below(found.iterations, 2000)
    assert found.residual <= 1e-9
    torch.testing.assert_close(found.vector, v - inverse(jacobian) @ (jacobian @ v), rtol=1e-6, atol=1e-6)


class TestMinimalResidual:
    def test_gmres_solves_asymmetric_systems_in_as_many_products_as_unknowns(self):
        matrix, right = normal(12, 12), normal(12, seed=1)
        answer = minimal_residual(lambda v: matrix @ v, right, iterations=12)
        torch.testing.assert_close(answer.solution, torch.linalg.solve(matrix, right), rtol=1e-8, atol=1e-9)

    def test_residual_is_the_least_of_the_krylov_space(self):
        matrix, right = normal(20, 20), normal(20, seed=1)
        answer = minimal_residual(lambda v: matrix @ v, right, iterations=5)
        powers = [right]
        for _ in range(5):
            powers.append(matrix @ powers[-1])
        images = torch.linalg.qr(torch.stack(powers[1:], 1)).Q
        least = torch.linalg.vector_norm(right - images @ (images.T @ right)) / torch.linalg.vector_norm(right)
        assert answer.residual == pytest.approx(float(least), rel=1e-8)
        assert answer.iterations == 5

    def test_singular_but_consistent_system_is_solved(self):
        factor = normal(6, 3)
        matrix = factor @ factor.T
        right = matrix @ normal(6, seed=1)
        answer = minimal_residual(lambda v: matrix @ v, right, iterations=20)
        torch.testing.assert_close(matrix @ answer.solution, right, rtol=1e-8, atol=1e-9)

    def test_right_side_of_zero_needs_no_product(self):
        answer = minimal_residual(lambda v: v, torch.zeros(3), iterations=5)
        assert (answer.iterations, answer.residual) == (0, 0.0)
        assert not answer.solution.any()


@pytest.mark.parametrize("kept_bytes", [0, 200, 400, 2**31])
def test_sweeps_with_a_smaller_last_block_do_not_depend_on_what_is_stored(kept_bytes):
    """Between the sizes of two factors, the last block alone would fit."""
    network, inputs = mlp(5, 12, 2), normal(7, 5)
    right = Metric(network, network.weights, inputs, Euclidean()).j(normal(network.num_weights, seed=5))
    sweep, other = (
        Sweeps(network, network.weights, inputs, Euclidean(), block=3, kept_bytes=size) for size in (kept_bytes, 0)
    )
    found, expected = (torch.zeros_like(network.weights) for _ in range(2))
    for _ in range(4):
        found, expected = sweep(found, right), other(expected, right)
        torch.testing.assert_close(found, expected)


def test_sweeps_alone_converge_to_the_least_norm_solution():
    """Two blocks of a small network, against the dense pseudo-inverse, to 1e-9 of its length.

    Inputs at right angles and a wide layer leave J J^T well conditioned, whatever is drawn.
    """
    network, inputs = mlp(6, 30, 3), torch.linalg.qr(normal(6, 6)).Q * 6**0.5
    jacobian = Metric(network, network.weights, inputs, Euclidean()).jacobian()
    right = (jacobian @ normal(network.num_weights, seed=5)).view(6, 3)
    expected = torch.linalg.pinv(jacobian) @ right.flatten()
    for kept_bytes in (0, 2**31):
        sweep = Sweeps(network, network.weights, inputs, Euclidean(), block=3, kept_bytes=kept_bytes)
        solution = torch.zeros_like(network.weights)
        for _ in range(100):
            solution = sweep(solution, right)
        assert_below((solution - expected).norm() / expected.norm(), 1e-9)
