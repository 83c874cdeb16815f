"""Statistics of normalisations that are estimated anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fipray.errors import NetworkError
from fipray.networks import Network, folded, normalised, re_estimated, statistics_of, unfolded
from tests.problems import normal


def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(2, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(80, 6),
            nn.BatchNorm1d(6),
            nn.Tanh(),
        ).double()
        module(normal(50, 2, 6, 6, seed=1))  # statistics of its own
    return Network.of(module.eval())


def moments(net: Network, weights: torch.Tensor, inputs: torch.Tensor) -> list[torch.Tensor]:
    """Means and deviations of the outputs of both normalisations, by the definition."""
    module, found = net.module_at(weights), []
    seen = inputs
    for part in module:
        seen = part(seen)
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            axes = [axis for axis in range(seen.ndim) if axis != 1]
            found += [seen.mean(axes), seen.std(axes, correction=0)]
    return found


def test_every_channel_has_the_moments_again_that_it_had_before():
    net, inputs = network(), normal(40, 2, 6, 6, seed=2)
    weights = net.weights.clone()
    for name in ("0.weight", "4.weight"):
        part = net.named(weights)[name]
        part *= normal(*part.shape, seed=3) > -0.5
    again = re_estimated(net, weights, net.weights, inputs)
    for mended, before in zip(moments(net, again, inputs), moments(net, net.weights, inputs), strict=True):
        torch.testing.assert_close(mended, before, rtol=1e-9, atol=1e-12)
    changed = {name for name, part in net.named(again).items() if not torch.equal(part, net.named(weights)[name])}
    assert changed == {"1.weight", "1.bias", "5.weight", "5.bias"}


def test_where_nothing_moved_nothing_changes_and_a_constant_channel_stays():
    net, inputs = network(), normal(40, 2, 6, 6, seed=2)
    torch.testing.assert_close(re_estimated(net, net.weights, net.weights, inputs), net.weights)
    gone = net.weights.clone()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        net.named(gone)[name][3] = 0
    again = net.named(re_estimated(net, gone, net.weights, inputs))
    assert float(again["1.weight"][3]) == float(again["1.bias"][3]) == 0


def test_a_network_without_such_a_normalisation_is_refused():
    net = Network.of(nn.Linear(3, 2))
    with pytest.raises(NetworkError, match="no BatchNorm"):
        re_estimated(net, net.weights, net.weights, torch.randn(4, 3))


def test_normalised_outputs_and_statistics_are_those_of_a_module_in_training():
    net, inputs, statistics = network(), normal(40, 2, 6, 6, seed=2), statistics_of(network())
    weights = net.weights + 0.1 * normal(net.num_weights, seed=4)
    module = net.module_at(weights).train()
    torch.testing.assert_close(normalised(net, weights, statistics, inputs), module(inputs))
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(statistics[name], buffer)
    for name, buffer in network().module_at(weights).named_buffers():
        assert torch.equal(dict(net.module_at(weights).named_buffers())[name], buffer), (
            "the network's own are as before"
        )


def test_folded_weights_compute_what_the_moved_statistics_do():
    net, inputs, statistics = network(), normal(40, 2, 6, 6, seed=2), statistics_of(network())
    weights = net.weights + 0.1 * normal(net.num_weights, seed=4)
    normalised(net, weights, statistics, 3 * inputs + 1)
    module = net.module_at(weights)
    module.load_state_dict(statistics, strict=False)
    with_them = folded(net, weights, statistics)
    torch.testing.assert_close(net(with_them, inputs), module(inputs))
    torch.testing.assert_close(unfolded(net, with_them, statistics), weights)


def test_statistics_need_a_normalisation_that_keeps_some():
    for module in (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))):
        with pytest.raises(NetworkError, match="no BatchNorm"):
            statistics_of(Network.of(module))
