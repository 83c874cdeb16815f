"""A module takes the sizes of a slimmed one's state, or says which entry it cannot take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from experiments.networks import resnet_20
from fipray.errors import NetworkError
from fipray.networks import Network, fitted, removable_channels, slimmed
from tests.problems import normal


def test_a_module_fitted_to_a_slimmed_state_is_the_slimmed_one_and_the_callers_stays():
    ours = resnet_20().double().eval()
    network = Network.of(ours)
    weights = network.weights.clone()
    for channels in removable_channels(network):
        weights[channels.own_indices()[::2]] = 0
    slim = slimmed(network, weights)
    ours.conv1.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    again = fitted(ours, slim.state_dict())
    inputs = normal(2, 3, 32, 32)
    assert torch.equal(again(inputs), slim(inputs))
    assert again.layer3[0].conv2.in_channels == 32
    assert not again.conv1.weight.requires_grad
    assert again.linear.weight.requires_grad
    assert all(torch.equal(before[name], value) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("entry", "shape", "message"),
    [
        ("0.bias", (3,), r"0\.bias has shape \(4,\) in Sequential, and cannot be resized to \(3,\)"),
        ("0.weight", (4, 1, 5, 5), r"0\.weight has shape \(4, 1, 3, 3\).* cannot be resized to \(4, 1, 5, 5\)"),
        ("0.weight", (4,), r"0\.weight has shape"),
        ("1.weight", (6, 4, 1, 1), r"1\.weight has shape"),
        ("2.running_var", (5,), r"2\.running_var has shape"),
        ("3.weight", (2, 2), r"3\.weight has shape"),
    ],
)
def test_a_state_that_cannot_fit_is_refused_by_name(entry: str, shape: tuple[int, ...], message: str):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1, groups=2), nn.BatchNorm2d(6), nn.LayerNorm(6))
    state = {**module.state_dict(), entry: torch.zeros(shape)}
    with pytest.raises(NetworkError, match=message):
        fitted(module, state)


def test_a_state_of_another_module_is_refused_by_name():
    module = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(NetworkError, match=r"the state lacks 0\.bias, so it is not that of a Sequential"):
        fitted(module, {"0.weight": torch.zeros(2, 2)})
    with pytest.raises(NetworkError, match=r"the state also has 1\.bias"):
        fitted(module, {**module.state_dict(), "1.bias": torch.zeros(2)})
