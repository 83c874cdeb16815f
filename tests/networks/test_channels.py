"""Channels are removed only where nothing else sees their number, and a network without them is the same function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.networks import lenet_5, lenet_300_100, resnet_20
from fipray.errors import NetworkError
from fipray.networks import Channels, Network, removable_channels, slimmed
from tests.problems import generator, normal


class Written(nn.Module):
    """A module with a forward that a test writes."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.written = forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self.written(self, inputs)


def made(module: nn.Module) -> Network:
    """In float64, every parameter and statistic random."""
    module = module.double()
    random = generator()
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 0.5, generator=random)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.3, generator=random)
    return Network.of(module)


def layers(network: Network) -> list[str]:
    return [channels.layer for channels in removable_channels(network)]


def without(network: Network, fraction: float = 0.5) -> tuple[Tensor, dict[str, Tensor]]:
    """Weights with about `share` of the channels of each layer zeroed, never all; which of them are left."""
    weights, left = network.weights.clone(), {}
    random = generator(1)
    for channels in removable_channels(network):
        kept = torch.rand(channels.num, generator=random) >= fraction
        kept[-1] = True
        weights[channels.own_indices()[~kept]] = 0
        left[channels.layer] = kept
    return weights, left


NETWORKS = {"LeNet-300-100": (lenet_300_100, 1, 28), "LeNet-5": (lenet_5, 1, 28), "ResNet-20": (resnet_20, 3, 32)}


def test_the_inner_convolutions_of_a_resnet_are_removable_and_nothing_else():
    found = removable_channels(made(resnet_20()))
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert [
        (one.layer, one.num, one.norms, [slot.name for slot in one.own], one.consumers, [s.name for s in one.seen])
        for one in found
    ] == [
        (
            f"{block}.conv1",
            16 * 2 ** (number // 3),
            (f"{block}.bn1",),
            [f"{block}.conv1.weight", f"{block}.bn1.weight", f"{block}.bn1.bias"],
            ((f"{block}.conv2", 1),),
            [f"{block}.conv2.weight"],
        )
        for number, block in enumerate(blocks)
    ]


def test_all_layers_but_the_last_of_a_lenet_are_removable_through_flatten_too():
    assert [(one.layer, one.num, one.consumers) for one in removable_channels(made(lenet_300_100()))] == [
        ("1", 300, (("3", 1),)),
        ("3", 100, (("5", 1),)),
    ]
    assert [(one.layer, one.num, one.consumers) for one in removable_channels(made(lenet_5()))] == [
        ("0", 20, (("3", 1),)),
        ("3", 50, (("7", 16),)),
        ("7", 500, (("9", 1),)),
    ]


def test_the_indices_of_a_channel_are_its_rows_and_the_columns_that_see_it():
    network = made(nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)))
    (channels,) = removable_channels(network)
    named = network.named(torch.arange(network.num_weights))
    assert channels.own_indices().tolist() == [
        [*named["0.weight"][c].flatten(), named["0.bias"][c], named["1.weight"][c], named["1.bias"][c]] for c in (0, 1)
    ]
    seen = named["4.weight"].view(3, 2, 4)
    assert channels.seen_indices().tolist() == [seen[:, c].flatten().tolist() for c in (0, 1)]


def test_matrices_that_do_not_move_are_in_no_index():
    module = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    (channels,) = removable_channels(Network.of(module, moving=["0.*"]))
    assert channels.seen_indices().shape == (2, 0)
    assert channels.consumers == (("2", 1),)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_zeroed_channel_is_zero_where_it_arrives(name: str):
    build, planes, side = NETWORKS[name]
    network = made(build())
    weights, left = without(network)
    module, arrived = network.module_at(weights), {}
    for channels in removable_channels(network):
        module.get_submodule(channels.consumers[0][0]).register_forward_pre_hook(
            lambda _, given, channels=channels: arrived.update({channels.layer: (channels, given[0])})
        )
    module(normal(2, planes, side, side))
    for layer, (channels, given) in arrived.items():
        by_channel = given.unflatten(1, (channels.num, -1)).transpose(0, 1).flatten(1)
        assert torch.equal((by_channel != 0).any(1) | left[layer], left[layer])
    assert arrived.keys() == left.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_slimmed_network_is_the_same_function(name: str):
    build, planes, side = NETWORKS[name]
    network = made(build())
    weights, left = without(network)
    slim = slimmed(network, weights)
    inputs = normal(2, planes, side, side)
    torch.testing.assert_close(slim(inputs), network(weights, inputs), rtol=1e-12, atol=1e-12)
    for layer, kept in left.items():
        assert len(slim.get_submodule(layer).weight) == int(kept.sum()) < len(kept)


def test_a_slimmed_network_says_its_sizes():
    network = made(lenet_5())
    weights, left = without(network)
    slim = slimmed(network, weights)
    first, second, third = (int(kept.sum()) for kept in left.values())
    assert (slim[0].out_channels, slim[3].in_channels, slim[3].out_channels) == (first, first, second)
    assert (slim[7].in_features, slim[7].out_features, slim[9].in_features) == (16 * second, third, third)
    assert all(parameter.requires_grad for parameter in slim.parameters())
    normed = made(resnet_20())
    weights, left = without(normed)
    block = slimmed(normed, weights).layer3[1]
    assert block.bn1.num_features == len(block.bn1.running_mean) == int(left["layer3.1.conv1"].sum())


def test_nothing_is_removed_where_no_channel_is_all_zero():
    network = made(lenet_300_100())
    weights = network.weights.clone()
    network.named(weights)["1.weight"][:7] = 0  # the biases are left
    state = slimmed(network, weights).state_dict()
    assert all(torch.equal(state[name], value) for name, value in network.named(weights).items())


def test_a_layer_of_zeros_keeps_one_channel():
    network = made(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    weights = network.weights.clone()
    weights[removable_channels(network)[0].own_indices()] = 0
    slim = slimmed(network, weights)
    assert slim[0].out_features == slim[2].in_features == 1
    torch.testing.assert_close(slim(normal(5, 3)), network(weights, normal(5, 3)))


ALIKE = {
    "functions, a view and a mean": Written(
        lambda m, x: m.c(torch.tanh(functional.max_pool2d(m.b(functional.gelu(m.a(x))), 2)).mean((2, 3))),
        **{"a": nn.Conv2d(1, 4, 3), "b": nn.Conv2d(4, 6, 3), "c": nn.Linear(6, 2)},
    ),
    "a view by the inputs' shape": Written(
        lambda m, x: m.b(m.a(x).relu().view(x.shape[0], -1)), a=nn.Conv2d(1, 4, 3), b=nn.Linear(4 * 36, 2)
    ),
    "a reshape by the size of what it reshapes": Written(
        lambda m, x: m.b((y := m.a(x)).reshape((y.size(0), -1))), a=nn.Conv2d(1, 4, 3), b=nn.Linear(4 * 36, 2)
    ),
    "two consumers": Written(
        lambda m, x: m.b(torch.flatten(y := m.a(x), 1)) + m.c(functional.elu(y)).mean(dim=[-1, -2]),
        **{"a": nn.Conv2d(1, 4, 3), "b": nn.Linear(4 * 36, 2), "c": nn.Conv2d(4, 2, 3)},
    ),
    "a normalisation of flattened channels": nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Flatten(), nn.BatchNorm1d(4 * 36), nn.Linear(4 * 36, 2)
    ),
    "a normalisation after a function that maps 0 elsewhere": nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Sigmoid(), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 2)
    ),
    "one dimension": nn.Sequential(
        *(nn.Flatten(2), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 3, 3)),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2)),
    ),
    "rows of inputs": Written(
        lambda m, x: m.b(functional.silu(m.a(x.flatten(1, 2)))).mean(1), a=nn.Linear(8, 5), b=nn.Linear(5, 2)
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_channels_are_followed_through(name: str):
    network = made(ALIKE[name])
    weights, left = without(network)
    assert left
    slim, inputs = slimmed(network, weights), normal(3, 1, 8, 8)
    assert sum(value.numel() for value in slim.parameters()) < network.num_weights
    torch.testing.assert_close(slim(inputs), network(weights, inputs), rtol=1e-12, atol=1e-12)


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    module[0].weight = module[4].weight
    return module


FIXED = {
    "an addition": Written(lambda m, x: m.b(m.a(x) + 1), a=nn.Linear(5, 5), b=nn.Linear(5, 2)),
    "a sum with itself": Written(lambda m, x: m.b((y := m.a(x)) + y), a=nn.Linear(5, 5), b=nn.Linear(5, 2)),
    "a concatenation": Written(lambda m, x: m.b(torch.cat([m.a(x), x], 1)), a=nn.Linear(5, 5), b=nn.Linear(10, 2)),
    "one use of two unknown": Written(
        lambda m, x: m.b(y := m.a(x)) + y.sum(1, keepdim=True), a=nn.Linear(5, 5), b=nn.Linear(5, 2)
    ),
    "the output": nn.Sequential(nn.Linear(5, 5), nn.ReLU()),
    "a function that maps 0 elsewhere": nn.Sequential(nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 2)),
    "a function whose range leaves out 0": nn.Sequential(nn.Linear(5, 5), nn.Hardtanh(0.5, 1), nn.Linear(5, 2)),
    "a function of all channels": nn.Sequential(nn.Linear(5, 5), nn.Softmax(1), nn.Linear(5, 2)),
    "a part with the name of a method": Written(
        lambda m, x: m.b(m.relu(m.a(x))), a=nn.Linear(5, 5), relu=nn.Softmax(1), b=nn.Linear(5, 2)
    ),
    "a normalisation over channels": nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 2)),
    "a normalisation without a shift": nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 2)),
    "groups": nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten()),
    "a view with numbers": Written(lambda m, x: m.b(m.a(x).view(-1, 16)), a=nn.Conv2d(1, 4, 3), b=nn.Linear(16, 2)),
    "places between the channels": nn.Sequential(nn.Linear(5, 3), nn.Flatten(), nn.Linear(12, 2)),
    "a linear map of places": nn.Sequential(nn.Conv2d(1, 4, 3), nn.Linear(4, 2)),
    "a mean over channels": Written(lambda m, x: m.b(m.a(x).mean(1)), a=nn.Conv2d(1, 4, 3), b=nn.Linear(4, 2)),
    "a layer called twice": Written(lambda m, x: m.b(m.a(m.a(x))), a=nn.Linear(5, 5), b=nn.Linear(5, 2)),
    "a matrix that another layer has": tied(),
    "a matrix that is read": Written(lambda m, x: m.b(m.a(x)) + m.a.weight.sum(), a=nn.Linear(5, 5), b=nn.Linear(5, 2)),
    "a parametrised layer": nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(5, 5)), nn.ReLU(), nn.Linear(5, 2)
    ),
}


@pytest.mark.parametrize("name", FIXED)
def test_no_channel_is_removable_before(name: str):
    assert layers(Network.of(FIXED[name])) == []


def test_a_bias_that_does_not_move_keeps_its_channels():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert layers(Network.of(module, moving="*.weight")) == []
    assert layers(Network.of(module, moving="0.*")) == ["0"]
    normed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    assert layers(Network.of(normed, moving=["0.*", "1.weight"])) == []
    (channels,) = removable_channels(Network.of(normed, moving="1.*"))
    assert [slot.name for slot in channels.own] == ["1.weight", "1.bias"]


def test_a_module_that_cannot_be_traced_is_refused():
    branching = Written(lambda m, x: m.a(x) if x.sum() > 0 else x, a=nn.Linear(2, 2))
    with pytest.raises(NetworkError, match=r"torch.fx cannot trace Written.*its forward must not depend on values"):
        removable_channels(Network.of(branching))


def test_a_slimmed_module_is_a_network_that_moves():
    network = made(lenet_300_100())
    slim = Network.of(slimmed(network, without(network)[0]))
    assert [one.num for one in removable_channels(slim)] == [slim.slots[1].shape[0], slim.slots[3].shape[0]]
    assert isinstance(removable_channels(slim)[0], Channels)
