"""Inputs that are read when they are used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fipray.errors import DataError
from fipray.networks import Deferred, Joined, Network, taken
from fipray.networks.checks.passes import NUM_INPUTS


class Recorded:
    """Source of a tensor that counts the inputs of each read."""

    is_fresh = False

    def __init__(self, values: Tensor) -> None:
        self.values, self.shape, self.dtype = values, tuple(values.shape), values.dtype
        self.reads: list[list[int]] = []

    def read(self, indices: Tensor, seed: int) -> Tensor:
        self.reads.append(indices.tolist())
        return self.values[indices]


class Endless:
    """Source of 4 GB of zeros."""

    shape, dtype, is_fresh = (2**20, 1024), torch.float32, False

    def read(self, indices: Tensor, seed: int) -> Tensor:
        return torch.zeros(len(indices), 1024)


@pytest.fixture
def values() -> Tensor:
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "index",
    [slice(4), slice(2, None, 3), slice(None, None, 2), 3, -1, [1, 1, 5], torch.tensor([7, 0, 7]), (slice(None), 1)],
    ids=str,
)
def test_deferred_inputs_give_what_a_tensor_gives(values, index):
    inputs = Deferred(Recorded(values))
    assert type(inputs[index]) is Tensor
    assert torch.equal(inputs[index], values[index])


def test_deferred_inputs_take_part_in_any_operation(values):
    inputs = Deferred(Recorded(values))
    assert isinstance(inputs, Tensor)
    assert (inputs.shape, inputs.dtype, inputs.device.type, len(inputs)) == (values.shape, values.dtype, "cpu", 20)
    assert torch.equal(inputs[values[:, 0] > 0], values[values[:, 0] > 0])
    assert torch.equal(torch.cat([inputs, inputs]) * 2, torch.cat([values, values]) * 2)
    assert inputs.to(torch.float64).dtype == torch.float64
    assert isinstance(inputs.to("cpu"), Deferred)
    assert "[20, 3]" in repr(inputs)


def test_network_reads_deferred_inputs_chunk_by_chunk_each_once(values):
    source = Recorded(values)
    network = Network.of(nn.Linear(3, 2))
    outputs = network.outputs(network.weights, Deferred(source), chunk=8)
    assert torch.equal(outputs, network.outputs(network.weights, values, chunk=8))
    assert source.reads == [list(range(8)), list(range(8, 16)), list(range(16, 20))]


def test_network_is_checked_on_the_first_inputs_alone(values):
    source = Recorded(values.repeat(50, 1))
    Network.of(nn.Linear(3, 2)).check(Deferred(source))
    assert {index for read in source.reads for index in read} == set(range(NUM_INPUTS))


def test_long_slice_stays_deferred_and_all_inputs_at_once_are_refused():
    inputs = Deferred(Endless())
    half = inputs[: 2**19]
    assert isinstance(half, Deferred)
    assert half.shape == (2**19, 1024)
    assert type(half[:10]) is Tensor
    assert len(half.split(1000)) == 525
    with pytest.raises(DataError, match=r"1,048,576 inputs that are read by reference would take 4.3 GB"):
        inputs.mean()


def test_inputs_that_were_expected_are_read_once_and_others_as_well(values):
    source = Recorded(values)
    inputs = Deferred(source)
    first, second = torch.tensor([3, 4]), torch.tensor([5, 6])
    inputs.expect(first)
    assert torch.equal(inputs.read(first), values[first])
    assert source.reads == [[3, 4]]
    inputs.expect(first)
    assert torch.equal(inputs.read(second), values[second])
    assert source.reads[-1] == [5, 6] or source.reads[-2] == [5, 6]


def test_error_of_inputs_that_are_read_ahead_comes_when_they_are_asked_for(values):
    inputs = Deferred(Recorded(values))
    inputs.expect(torch.tensor([20]))
    assert torch.equal(inputs[:1], values[:1])
    inputs.expect(torch.tensor([20]))
    with pytest.raises(IndexError):
        inputs.read(torch.tensor([20]))


def test_joined_inputs_are_those_of_all_parts(values):
    joined = Deferred(Joined([Deferred(Recorded(values)), values[:5] + 1]))
    whole = torch.cat([values, values[:5] + 1])
    assert torch.equal(joined[:], whole)
    chosen = torch.tensor([24, 0, 20, 19])
    assert torch.equal(joined[chosen], whole[chosen])


def test_taken_inputs_are_ordinary_ones(values):
    for inputs in (values, Deferred(Recorded(values))):
        assert torch.equal(taken(inputs, torch.tensor([2, 1])), values[[2, 1]])
        assert torch.equal(taken(inputs, slice(4)), values[:4])
