"""A network at several weights: batched by torch.vmap, or one after the other where it cannot be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fipray.networks import Network
from fipray.networks.stacking import stacks
from tests.problems import mlp, normal


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer, self.out = layer(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.layer(inputs.view(len(inputs), 2, 3))[0][:, -1])


class Square(torch.autograd.Function):
    """Without a rule for vmap."""

    @staticmethod
    def forward(ctx, value):
        ctx.save_for_backward(value)
        return value.square()

    @staticmethod
    def backward(ctx, gradient):
        (value,) = ctx.saved_tensors
        return 2 * value * gradient


class WrongUnderVmap(torch.autograd.Function):
    """Its rule for vmap doubles what it computes, and nothing says so."""

    @staticmethod
    def forward(value):
        return value.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        (value,) = ctx.saved_tensors
        return 2 * value * gradient

    @staticmethod
    def vmap(info, in_dims, value):
        return 2 * WrongUnderVmap.apply(value), in_dims[0]


class WrongGradientUnderVmap(WrongUnderVmap):
    """Its rule for vmap loses the gradient."""

    @staticmethod
    def vmap(info, in_dims, value):
        return value.detach().square(), in_dims[0]


class With(nn.Module):
    """A function of the first layer's activations between two layers."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(6, 4), nn.Linear(4, 3), between
        self.register_buffer("scratch", torch.zeros(4))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(inputs)))


def looks_at_activations(_, hidden: Tensor) -> Tensor:
    return hidden.tanh() if hidden.sum() > 0 else -hidden


def writes_to_a_buffer(module: nn.Module, hidden: Tensor) -> Tensor:
    module.scratch.zero_()
    module.scratch.add_(hidden.detach().mean(0))
    return hidden + module.scratch


UNBATCHED = {
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "autograd function without a rule": lambda: With(lambda _, hidden: Square.apply(hidden)),
    "autograd function with a wrong rule": lambda: With(lambda _, hidden: WrongUnderVmap.apply(hidden)),
    "autograd function with a wrong gradient": lambda: With(lambda _, hidden: WrongGradientUnderVmap.apply(hidden)),
    "control flow": lambda: With(looks_at_activations),
    "writing in place": lambda: With(writes_to_a_buffer),
}


def network(make) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network.of(make().double().eval())


@pytest.mark.parametrize("make", UNBATCHED.values(), ids=UNBATCHED)
def test_a_network_that_vmap_cannot_batch_is_stacked_with_the_values_and_gradients_of_its_members(make):
    one = network(make)
    assert not stacks(one, one.weights, normal(5, 6))
    weights, inputs = one.weights + 0.1 * normal(3, one.num_weights, seed=1), normal(5, 6)
    weights.requires_grad_()
    inputs.requires_grad_()
    found, expected = one.stacked(weights, inputs), torch.stack([one(row, inputs) for row in weights])
    assert torch.equal(found, expected)
    for slope, right in zip(
        *(torch.autograd.grad(each.square().sum(), (weights, inputs)) for each in (found, expected)), strict=True
    ):
        assert torch.equal(slope, right)


def test_a_network_that_vmap_batches_is_computed_together():
    one, inputs = mlp(6, 4, 3), normal(5, 6)
    weights = torch.stack([one.weights] * 7)
    assert stacks(one, one.weights, inputs)
    one.stacked(weights, inputs)
    assert num_calls(one, lambda: one.stacked(weights, inputs)) == 1


def num_calls(one: Network, action: Callable[[], object]) -> int:
    calls: list[int] = []
    hook = next(one.parts())[1].register_forward_hook(lambda *_: calls.append(1))
    action()
    hook.remove()
    return len(calls)


def test_it_is_decided_once_for_a_network_and_a_kind_of_inputs():
    one = network(UNBATCHED["LSTM"])
    weights, inputs = one.weights[None], normal(5, 6)
    one.stacked(weights, inputs)
    assert num_calls(one, lambda: one.stacked(weights, inputs[:3])) == 1
    assert num_calls(one, lambda: one.at(one.weights + 1).stacked(weights, inputs)) == 1


def test_a_members_mistake_is_raised_as_it_is():
    one = mlp(6, 4, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        one.stacked(one.weights[None], normal(5, 7))
