"""The Kronecker metric against dense metrics in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fipray.errors import NetworkError, UsageError
from fipray.geometry import Euclidean, FisherRao, KroneckerMetric, Metric
from fipray.networks import Network
from tests.margins import assert_above, assert_below
from tests.problems import mlp, normal


def _dense(metric: Metric) -> torch.Tensor:
    jacobian = metric.jacobian()
    return jacobian.T @ jacobian / metric.num_inputs


@pytest.mark.parametrize("bias", [True, False])
def test_kronecker_metric_of_one_linear_map_is_the_metric(bias):
    network = Network.of(nn.Linear(4, 3, bias=bias).double())
    metric = Metric(network, network.weights, normal(7, 4, seed=1), Euclidean())
    kept, v = KroneckerMetric.of(metric), normal(network.num_weights, seed=2)
    torch.testing.assert_close(kept.squared_length(v), v @ _dense(metric) @ v)


def test_kronecker_factors_on_one_input_are_the_blocks_of_the_metric():
    """One input and one output make one outer product, so only the blocks between layers are lost."""
    network = mlp(5, 6, 1)
    metric = Metric(network, network.weights, normal(1, 5, seed=1), Euclidean())
    kept, dense = KroneckerMetric.of(metric), _dense(metric)
    for layer in metric.layers:
        v = torch.zeros(network.num_weights, dtype=torch.float64)
        layer.put(v, normal(layer.num_outputs, layer.size // layer.num_outputs + 1, seed=3))
        torch.testing.assert_close(kept.squared_length(v), v @ dense @ v)


def test_kronecker_factors_of_a_kernel_of_image_size_are_those_of_a_linear_map():
    torch.manual_seed(0)
    convolution, inputs = nn.Conv2d(2, 3, 4).double(), normal(6, 2, 4, 4, seed=1)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    linear[1].weight.data, linear[1].bias.data = convolution.weight.data.flatten(1), convolution.bias.data
    networks = Network.of(nn.Sequential(convolution, nn.Flatten())), Network.of(linear)
    v = normal(networks[0].num_weights, seed=2)
    lengths = [KroneckerMetric.of(Metric(one, one.weights, inputs, FisherRao())).squared_length(v) for one in networks]
    torch.testing.assert_close(lengths[0], lengths[1])


def test_fraction_of_the_trace_takes_less_memory_and_never_lengthens():
    network = mlp(20, 30, 4)
    metric = Metric(network, network.weights, normal(50, 20, seed=1), FisherRao())
    whole, part = (KroneckerMetric.of(metric, fraction=fraction) for fraction in (1.0, 0.8))
    v = normal(network.num_weights, seed=2)
    assert_below(part.num_bytes / whole.num_bytes, 0.6)
    assert part.squared_length(v) < whole.squared_length(v)
    assert_above(part.squared_length(v) / whole.squared_length(v), 0.3)
    again = KroneckerMetric.from_arrays(part.arrays())
    assert again.squared_length(v) == part.squared_length(v)
    assert again.num_bytes == part.num_bytes


def test_kronecker_metric_refuses_weights_outside_layers_and_fractions_out_of_range():
    network = Network.of(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3)).double())
    metric = Metric(network, network.weights, normal(5, 4, seed=1), Euclidean())
    with pytest.raises(NetworkError, match="hold each weight once"):
        KroneckerMetric.of(metric)
    for fraction in (0.0, 1.1):
        with pytest.raises(UsageError, match="above 0 and up to 1"):
            KroneckerMetric.of(metric, fraction=fraction)
