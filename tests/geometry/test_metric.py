"""The pulled-back metric against dense Jacobians from torch.func, in float64, to 1e-10."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

from fipray.errors import UsageError
from fipray.geometry import Euclidean, FisherRao, Metric, OutputGeometry, StreamedMetric, functional_distance
from fipray.networks import Network
from tests.problems import linear, mlp, normal

TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


def convolutional() -> tuple[Network, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)
        )
    return Network.of(module.double()), normal(5, 1, 8, 8)


def fully_connected() -> tuple[Network, Tensor]:
    return mlp(6, 7, 4), normal(5, 6)


def strided_padded_and_dilated() -> tuple[Network, Tensor]:
    """Linear layers and convolutions in all settings, which are recorded completely."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2)),
            nn.Tanh(),
            nn.Conv2d(4, 3, 3, dilation=2, bias=False),
            nn.Tanh(),
            nn.Linear(6, 5),  # on the last axis: 3 x 4 positions
            nn.Flatten(),
            nn.Linear(30, 3),
        )
    return Network.of(module.double()), normal(4, 2, 11, 7)


def grouped_and_one_dimensional() -> tuple[Network, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv1d(4, 4, 3, groups=2, padding="same"),
            nn.Tanh(),
            nn.Conv1d(4, 2, 3, groups=2),
            nn.BatchNorm1d(2, affine=False),
            nn.Unflatten(1, (1, 2)),
            nn.Conv2d(1, 2, (2, 3)),
            nn.Flatten(),
            nn.Linear(10, 3),
        )
    return Network.of(module.double()), normal(4, 4, 9)


class Tied(nn.Module):
    """A weight that acts in a linear layer and again outside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(self.layer(inputs)) @ self.layer.weight[:, :3]


def tied() -> tuple[Network, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network.of(Tied().double()), normal(5, 6)


CASES = [
    pytest.param(make, geometry, id=f"{make.__name__}-{type(geometry).__name__}")
    for make in (fully_connected, convolutional, strided_padded_and_dilated, grouped_and_one_dimensional, tied)
    for geometry in (FisherRao(), Euclidean(scale=0.5))
]


def dense(network: Network, inputs: Tensor, geometry: OutputGeometry) -> Tensor:
    jacobian = jacrev(lambda weights: geometry.embed(network(weights, inputs)))(network.weights)
    return jacobian.reshape(-1, network.num_weights)


@pytest.mark.parametrize(("make", "geometry"), CASES)
class TestProducts:
    def test_j_and_its_transpose_are_the_dense_jacobians(self, make, geometry):
        network, inputs = make()
        metric, jacobian = Metric(network, network.weights, inputs, geometry), dense(network, inputs, geometry)
        v, u = normal(network.num_weights, seed=2), normal(*metric.embedded.shape, seed=3)
        torch.testing.assert_close(metric.j(v).reshape(-1), jacobian @ v, **TOLERANCE)
        torch.testing.assert_close(metric.jt(u), jacobian.T @ u.reshape(-1), **TOLERANCE)
        torch.testing.assert_close(metric.jacobian(), jacobian, **TOLERANCE)

    def test_metric_vector_product_is_jtj_over_n(self, make, geometry):
        network, inputs = make()
        metric, jacobian = Metric(network, network.weights, inputs, geometry), dense(network, inputs, geometry)
        v = normal(network.num_weights, seed=2)
        torch.testing.assert_close(metric @ v, jacobian.T @ (jacobian @ v) / len(inputs), **TOLERANCE)

    def test_gram_is_jjt_as_matrix_and_as_product(self, make, geometry):
        network, inputs = make()
        metric, jacobian = Metric(network, network.weights, inputs, geometry), dense(network, inputs, geometry)
        u = normal(*metric.embedded.shape, seed=3)
        torch.testing.assert_close(metric.gram(), jacobian @ jacobian.T, **TOLERANCE)
        torch.testing.assert_close(metric.gram_product(u).reshape(-1), metric.gram() @ u.reshape(-1), **TOLERANCE)


def test_linear_network_has_a_constant_metric():
    network, inputs, v = linear(4, 3), normal(6, 4), normal(12, seed=2)
    here = Metric(network, network.weights, inputs, Euclidean())
    there = Metric(network, network.weights + 5 * normal(12, seed=3), inputs, Euclidean())
    torch.testing.assert_close(here @ v, there @ v, **TOLERANCE)


def test_fisher_rao_metric_is_the_fisher_information():
    network, inputs = fully_connected()
    weights = network.weights
    probabilities = network(weights, inputs).softmax(1)
    scores = jacrev(lambda w: network(w, inputs).log_softmax(1))(weights)  # [N, C, P]
    fisher = torch.einsum("nc,ncp,ncq->pq", probabilities, scores, scores) / len(inputs)
    v = normal(network.num_weights, seed=2)
    torch.testing.assert_close(Metric(network, weights, inputs, FisherRao()) @ v, fisher @ v, rtol=1e-9, atol=1e-12)


def test_dead_unit_is_in_the_null_space():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    layer = module[0]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.bias[1] = -100.0  # never active
    network = Network.of(module)
    direction = torch.zeros(network.num_weights, dtype=torch.float64)
    direction[4:8] = 1.0  # the weights into the dead unit
    assert Metric(network, network.weights, normal(9, 4), FisherRao()).j(direction).abs().max() == 0


def test_attention_has_both_products():
    torch.manual_seed(0)
    module = nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), nn.Flatten())
    network, inputs = Network.of(module.double().eval()), normal(3, 5, 4)
    metric = Metric(network, network.weights, inputs, Euclidean())
    direction, sensitivities = normal(network.num_weights), normal(3, 20, seed=1)
    little = 1e-6 * direction
    ahead, behind = (network.outputs(network.weights + sign * little, inputs) for sign in (1, -1))
    torch.testing.assert_close(metric.j(direction), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((metric.j(direction) * sensitivities).sum(), metric.jt(sensitivities) @ direction)


def test_products_ask_for_no_gradient_from_the_caller():
    network, inputs = fully_connected()
    with torch.no_grad():
        metric = Metric(network, network.weights, inputs, FisherRao())
        assert not (metric @ normal(network.num_weights)).requires_grad


def test_functional_distance_to_second_order_is_the_metrics_length():
    network, inputs = fully_connected()
    v, geometry, step = normal(network.num_weights, seed=2), FisherRao(), 1e-5
    metric = Metric(network, network.weights, inputs, geometry)
    moved = geometry.embed(network(network.weights + step * v, inputs))
    length = math.sqrt(float(v @ (metric @ v))) * step
    assert float(functional_distance(moved, metric.embedded)) == pytest.approx(length, rel=1e-4)


def test_fisher_rao_of_certain_and_opposite_predictions_is_the_spheres_chord():
    sure = torch.tensor([[1e4, 0.0], [0.0, 1e4]])
    a, b = FisherRao().embed(sure), FisherRao().embed(-sure)
    assert float(functional_distance(a, b)) == pytest.approx(2 * math.sqrt(2))
    assert float(functional_distance(a, a)) == 0


def test_scale_that_is_not_positive_is_refused():
    with pytest.raises(UsageError, match="above 0"):
        Euclidean(scale=0)


class UsesOnePart(nn.Module):
    """A network with a layer that no pass uses."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.used = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs)


def test_weights_that_no_pass_uses_have_rows_of_zeros():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network(UsesOnePart().double(), ["unused.weight", "unused.bias", "used.weight", "used.bias"])
    inputs, geometry = normal(5, 6), FisherRao()
    metric, v, u = Metric(network, network.weights, inputs, geometry), normal(network.num_weights, seed=1), normal(5, 4)
    dense = jacrev(lambda weights: geometry.embed(network(weights, inputs)))(network.weights).flatten(0, 1)
    torch.testing.assert_close(metric.j(v).flatten(), dense @ v, **TOLERANCE)
    torch.testing.assert_close(metric.jt(u), dense.T @ u.flatten(), **TOLERANCE)


def test_products_take_and_give_vectors_in_pieces_as_well():
    network, inputs = convolutional()
    metric = Metric(network, network.weights, inputs, FisherRao())
    u, v = normal(5, 4, seed=1), normal(network.num_weights, seed=2)
    pieces = metric.jt_in_pieces(u)
    assert [len(one) for one in pieces] == [slot.shape.numel() for slot in network.slots]
    assert torch.equal(torch.cat(pieces), metric.jt(u))
    in_pieces = list(v.split([len(one) for one in pieces]))
    for direction in (in_pieces, [v]):
        assert torch.equal(metric.j(direction), metric.j(v))


@pytest.mark.parametrize("chunk", [2, 3])
def test_a_streamed_metric_is_the_whole_one(chunk):
    network, inputs = convolutional()
    given = (network, network.weights, inputs, FisherRao())
    whole, streamed = Metric(*given), StreamedMetric(*given, chunk=chunk)
    u, v = normal(5, 4, seed=1), normal(network.num_weights, seed=2)
    for one, other in (
        (whole.jt(u), streamed.jt(u)),
        (whole.j(v), streamed.j(v)),
        (whole @ v, streamed @ v),
        (whole.jacobian(), streamed.jacobian()),
        (whole.gram(), streamed.gram()),
    ):
        torch.testing.assert_close(one, other, **TOLERANCE)
