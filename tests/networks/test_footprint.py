"""Sizes are counted exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from experiments.networks import lenet_5, lenet_300_100, resnet_20
from fipray.errors import DataError, NetworkError
from fipray.networks import Footprint, Network, footprint_of


def of(module: nn.Module, inputs: Tensor) -> Footprint:
    network = Network.of(module)
    return footprint_of(network, network.weights, inputs)


def test_the_multiply_adds_of_dense_networks_are_those_of_their_layers():
    assert of(lenet_300_100(), torch.zeros(2, 1, 28, 28)).multiply_adds == 784 * 300 + 300 * 100 + 100 * 10
    assert of(lenet_5(), torch.zeros(2, 1, 28, 28)).multiply_adds == (
        24**2 * 20 * 25 + 8**2 * 50 * 20 * 25 + 800 * 500 + 500 * 10
    )
    stages = (3 * 16 + 6 * 16 * 16) * 32**2 + (16 * 32 + 5 * 32 * 32) * 16**2 + (32 * 64 + 5 * 64 * 64) * 8**2
    assert of(resnet_20(), torch.zeros(1, 3, 32, 32)).multiply_adds == 9 * stages + 640


@pytest.mark.parametrize(
    ("module", "inputs", "expected"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), torch.zeros(3, 4, 7), 5 * 6 * 2 * 3),
        (nn.Conv2d(3, 4, 3, padding="same"), torch.zeros(3, 3, 5, 6), 30 * 4 * 27),
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), torch.zeros(3, 3, 5, 6), 9 * 4 * 27),
        (nn.Linear(5, 2), torch.zeros(3, 7, 5), 7 * 10),
        (nn.Bilinear(5, 5, 2), None, 0),
    ],
)
def test_the_multiply_adds_of_one_layer_are_positions_times_weights(module: nn.Module, inputs: Tensor | None, expected):
    if inputs is None:
        module, inputs = Squared(module), torch.zeros(3, 5)
    assert of(module, inputs).multiply_adds == expected


class Squared(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, inputs: Tensor) -> Tensor:
        return self.part(inputs, inputs)


def test_zeros_are_counted_by_layer_and_multiplied_by_nobody():
    network = Network.of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4)))
    weights = torch.ones(network.num_weights)
    named = network.named(weights)
    named["0.weight"][0, 0, 0] = 0
    named["2.weight"][1:, :2] = 0
    named["2.bias"][0] = 0
    sizes = footprint_of(network, weights, torch.zeros(5, 1, 4, 4))
    assert sizes.sparsity == {"0.weight": 3 / 18, "2.weight": 6 / 32}
    assert (sizes.num_weights, sizes.non_zeros) == (18 + 2 + 32 + 4, 15 + 2 + 26 + 3)
    assert sizes.bytes_dense == 4 * 56
    assert sizes.bytes_csr == (15 * 6 + 4 * 3) + 4 * 2 + (26 * 6 + 4 * 5) + 4 * 4
    assert sizes.multiply_adds == 4 * 18 + 32
    assert sizes.multiply_adds_non_zero == 4 * 15 + 26
    assert sizes.bytes_2_4 is None


@pytest.mark.parametrize(("columns", "index"), [(2**16, 2), (2**16 + 1, 4)])
def test_the_number_of_a_column_takes_four_bytes_where_two_are_too_few(columns: int, index: int):
    assert of(nn.Linear(columns, 1, bias=False), torch.zeros(1, columns)).bytes_csr == columns * (4 + index) + 8


def test_two_of_four_weights_along_the_input_channels_take_half_and_two_bits_each():
    network = Network.of(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 3, 3), nn.Flatten(), nn.Linear(12, 5)))
    weights = torch.ones(network.num_weights)
    named = network.named(weights)
    named["1.weight"].unflatten(1, (2, 4))[:, :, 1:3] = 0
    named["3.weight"].unflatten(1, (3, 4))[:, :, ::2] = 0
    inputs = torch.zeros(1, 1, 6, 6)
    dense, first, second = 4 * (72 + 8 + 3 + 5), 3 * 8 * 9, 5 * 12
    assert (
        footprint_of(network, weights, inputs).bytes_2_4 == dense + 2 * (first + second) + 27 + 8
    )  # 60 / 8 rounded up
    named["1.weight"][2, 5, 1, 1] = 1  # three of one four
    assert footprint_of(network, weights, inputs).bytes_2_4 is None


def test_frozen_weights_are_multiplied_with_and_not_counted():
    network = Network.of(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), moving="1.*")
    sizes = footprint_of(network, network.weights, torch.zeros(1, 4))
    assert (sizes.num_weights, sizes.bytes_dense, list(sizes.sparsity)) == (8, 32, ["1.weight"])
    assert sizes.multiply_adds == sizes.multiply_adds_non_zero == 12 + 6


def test_inputs_and_weights_that_do_not_fit_are_refused():
    network = Network.of(nn.Linear(4, 3))
    with pytest.raises(DataError, match="there are no inputs"):
        footprint_of(network, network.weights, torch.zeros(0, 4))
    with pytest.raises(DataError, match="does not take inputs of shape"):
        footprint_of(network, network.weights, torch.zeros(1, 5))
    with pytest.raises(NetworkError, match="has 15 weights"):
        footprint_of(network, torch.zeros(3), torch.zeros(1, 4))
