"""Kept quantities: their values by closed forms, and products with their Jacobians by dense ones, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fipray.errors import DataError, UsageError
from fipray.geometry import Equivariant, Euclidean, FisherRao, Outputs, Residual, Slopes, StackedMetric
from fipray.geometry.keeps.kept import values_of
from fipray.networks import Network
from tests.problems import linear, mlp, normal

PLANE = mlp(2, 7, 2)
KEEPS = {
    "outputs": Outputs(FisherRao()),
    "regression": Outputs(Euclidean(0.5)),
    "residual": Residual("tests.quantities:energy_rate", scale=0.2),
    "residual with slopes": Residual("tests.quantities:divergence", scale=2.0),
    "equivariant": Equivariant("tests.quantities:rotations", scale=0.3),
    "invariant": Equivariant("tests.quantities:shifts"),
    "slopes": Slopes(scale=0.7, directions=3),
}


def dense(kept, weights: Tensor, inputs: Tensor) -> Tensor:
    """The Jacobian [N C, P] by central differences of the quantity."""
    columns, step = [], 1e-5
    for unit in torch.eye(len(weights), dtype=torch.float64):
        ahead, behind = (values_of(kept, PLANE, weights + sign * step * unit, inputs) for sign in (1, -1))
        columns.append((ahead - behind).flatten() / (2 * step))
    return torch.stack(columns, 1)


@pytest.mark.parametrize("name", KEEPS)
def test_products_are_those_of_the_dense_jacobian(name):
    """To 1e-7, the error of central differences."""
    weights, inputs = PLANE.weights + 0.1 * normal(PLANE.num_weights), normal(5, 2, seed=1)
    jacobian = dense(KEEPS[name], weights, inputs)
    metric = StackedMetric(PLANE, weights, [(KEEPS[name], inputs)], num_inputs=5)
    vector, sensitivities = normal(PLANE.num_weights, seed=2), normal(len(jacobian), 1, seed=3)
    for found, expected in (
        (metric.j(vector)[:, 0], jacobian @ vector),
        (metric.jt(sensitivities), jacobian.T @ sensitivities[:, 0]),
        (metric @ vector, jacobian.T @ jacobian @ vector / 5),
        (metric.jacobian(), jacobian),
        (metric.gram(), jacobian @ jacobian.T),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_quantities_on_inputs_of_their_own_add_up_by_their_means():
    sets = {name: normal(3 + place, 2, seed=place) for place, name in enumerate(KEEPS)}
    metric = StackedMetric(PLANE, PLANE.weights, [(KEEPS[name], sets[name]) for name in KEEPS], num_inputs=4)
    vector = normal(PLANE.num_weights, seed=2)
    expected = torch.zeros_like(vector)
    for name, inputs in sets.items():
        jacobian = dense(KEEPS[name], PLANE.weights, inputs)
        expected += jacobian.T @ jacobian @ vector / len(inputs)
    torch.testing.assert_close(metric @ vector, expected, rtol=1e-6, atol=1e-7)
    rows = metric.jacobian()
    torch.testing.assert_close(rows.T @ rows / metric.num_inputs, _dense_metric(metric), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(metric.j(vector)[:, 0], rows @ vector, rtol=1e-10, atol=1e-10)
    any_number = StackedMetric(PLANE, PLANE.weights, [(KEEPS[name], sets[name]) for name in KEEPS], num_inputs=900)
    torch.testing.assert_close(any_number @ vector, metric @ vector)
    assert float(any_number.embedded.square().sum()) / 900 == pytest.approx(float(metric.embedded.square().sum()) / 4)


def _dense_metric(metric: StackedMetric) -> Tensor:
    return torch.stack([metric @ unit for unit in torch.eye(PLANE.num_weights, dtype=torch.float64)])


class TestValues:
    INPUTS = normal(6, 2, seed=4)

    def of(self, kept, weight: list[list[float]]) -> Tensor:
        network = linear(2, 2)
        return values_of(kept, network, torch.tensor(weight, dtype=torch.float64).flatten(), self.INPUTS)

    def test_energy_of_a_linear_field_is_conserved_where_its_matrix_is_skew(self):
        residual = Residual("tests.quantities:energy_rate", scale=0.5)
        assert float(self.of(residual, [[0.0, 3.0], [-3.0, 0.0]]).abs().max()) < 1e-13
        x = self.INPUTS
        torch.testing.assert_close(
            self.of(residual, [[2.0, 0.0], [0.0, 1.0]])[:, 0], 4 * x[:, 0] ** 2 + 2 * x[:, 1] ** 2
        )

    def test_matrix_that_commutes_with_rotations_is_equivariant(self):
        kept = Equivariant("tests.quantities:rotations", scale=0.5)
        assert float(self.of(kept, [[2.0, 1.0], [-1.0, 2.0]]).abs().max()) < 1e-13
        turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
        weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
        expected = (self.INPUTS @ turn @ weight.T - self.INPUTS @ weight.T @ turn) / 0.5
        torch.testing.assert_close(self.of(kept, weight.tolist()), expected)

    def test_slopes_are_those_of_the_matrix(self):
        found = self.of(Slopes(2.0, directions=2, seed=5), [[1.0, 2.0], [3.0, 4.0]])
        assert found.shape == (6, 4)
        assert torch.equal(found, found[:1].expand(6, 4))
        basis = torch.linalg.solve(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(), 2 * found[0].view(2, 2).T)
        torch.testing.assert_close(torch.linalg.vector_norm(basis, dim=0), torch.ones(2, dtype=torch.float64))

    def test_residual_vanishes_and_slopes_stay(self):
        value = normal(3, 2)
        assert torch.equal(Residual("tests.quantities:divergence").target(value), torch.zeros_like(value))
        assert torch.equal(Equivariant("tests.quantities:shifts").target(value), torch.zeros_like(value))
        assert Slopes().target(value) is value
        assert Outputs().target(value) is value


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda: Residual("no_such_module:f"), "cannot be imported"),
            (lambda: Residual("tests.quantities:nothing"), "has no function 'nothing'"),
            (lambda: Residual("energy"), "must be given as module:function"),
            (lambda: Residual("tests.problems:generator"), "does not take two arguments, a network and inputs"),
            (lambda: Residual("tests.quantities:divergence", scale=0.0), "scale of a kept quantity is above 0"),
            (lambda: Slopes(directions=0), "at least one direction"),
            (lambda: Outputs(budget=0.0), "a distance above 0"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, make, said):
        with pytest.raises(UsageError, match=said):
            make()

    def test_functions_with_results_of_another_shape_are_refused(self):
        for function, said in (("too_few", r"returned a float64 tensor \[1, 2\] for 4 inputs"),):
            with pytest.raises(UsageError, match=said):
                values_of(Residual(f"tests.quantities:{function}"), PLANE, PLANE.weights, normal(4, 2))
        with pytest.raises(UsageError, match="expected one pair for each generator"):
            values_of(Equivariant("tests.quantities:no_pairs"), PLANE, PLANE.weights, normal(4, 2))

    def test_slopes_along_integer_inputs_are_refused(self):
        module = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).double()
        network = Network.of(module)
        with pytest.raises(DataError, match="need floating-point inputs"):
            values_of(Slopes(), network, network.weights, torch.zeros(4, 2, dtype=torch.int64))


@pytest.mark.parametrize("name", KEEPS)
def test_kept_quantities_survive_json(name, restored):
    assert restored(KEEPS[name]) == KEEPS[name]
    assert math.isinf(KEEPS[name].budget)
