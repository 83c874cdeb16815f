"""What can be differentiated twice, and what cannot is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from fipray.errors import NetworkError
from fipray.geometry import Euclidean, Metric, StreamedMetric
from fipray.networks import Network
from fipray.networks.derivatives import without_second_derivative
from tests.problems import normal


class Doubled(Function):
    @staticmethod
    def forward(ctx, inputs):
        return 2 * inputs

    @staticmethod
    @once_differentiable
    def backward(ctx, sensitivities):
        return 2 * sensitivities


class Once(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return self.scale * Doubled.apply(inputs)


class Pair(nn.Module):
    def forward(self, inputs):
        return inputs, Doubled.apply(inputs)


class Second(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair, self.last = Pair(), nn.Linear(3, 2)

    def forward(self, inputs):
        return self.last(self.pair(inputs)[1])


def network(part: nn.Module) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential()
        body.add_module("first", nn.Linear(4, 3))
        body.add_module("odd", part)
        return Network.of(body.double())


@pytest.mark.parametrize(("part", "name"), [(Once(), r"odd \(Once\)"), (Second(), r"odd\.pair \(Pair\)")])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_part_without_a_second_derivative_is_named_innermost_first(part, name, streamed):
    where = network(part)
    arguments = (where, where.weights, normal(5, 4), Euclidean())
    metric = StreamedMetric(*arguments, chunk=2) if streamed else Metric(*arguments)
    with pytest.raises(NetworkError, match=f"^{name} has no second derivative.*FirstOrder"):
        metric.j(where.weights)
    assert bool(torch.isfinite(metric.jt(torch.ones_like(metric.embedded))).all())


def test_every_part_of_a_plain_network_has_a_second_derivative():
    where = network(nn.Tanh())
    assert without_second_derivative(where, where.weights, normal(5, 4)) is None


class LastState(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]):
        super().__init__()
        self.body, self.head = kind(4, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, inputs):
        return self.head(self.body(inputs)[0][:, -1])


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), nn.Linear(4, 2)

    def forward(self, inputs):
        return self.head(self.body(inputs).mean(1))


@pytest.mark.parametrize(
    "make",
    [lambda: LastState(nn.GRU), lambda: LastState(nn.LSTM), lambda: LastState(nn.RNN), Attends],
    ids=["gru", "lstm", "rnn", "attention"],
)
def test_products_of_recurrent_and_attending_networks_are_those_of_finite_differences(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        where = Network.of(make().double())
    inputs, direction, step = normal(3, 6, 4, seed=1), normal(where.num_weights, seed=2), 1e-5
    metric = Metric(where, where.weights, inputs, Euclidean())
    ahead, behind = (where.outputs(where.weights + sign * step * direction, inputs) for sign in (1, -1))
    along = metric.j(direction)
    torch.testing.assert_close(along, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)
    sensitivities = normal(*along.shape, seed=3)
    torch.testing.assert_close((along * sensitivities).sum(), metric.jt(sensitivities) @ direction)
