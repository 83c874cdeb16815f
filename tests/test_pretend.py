"""The pretend GPU of the tests: it computes what the CPU does, refuses what a GPU refuses, and counts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fipray.networks import Network
from tests import pretend
from tests.problems import generator, normal


@pytest.fixture
def gpu():
    with pretend.gpu() as gpu:
        yield gpu


def test_first_and_second_derivatives_are_those_of_the_cpu(gpu):
    inputs, weights = normal(5, 3), normal(3, 2, seed=1)
    found = []
    for device in ("cpu", gpu.device):
        moving = weights.to(device).requires_grad_()
        # Of the parts only one is used, so that autograd makes zeros for the other.
        first, _ = (inputs.to(device) @ moving).tanh().split([1, 1], 1)
        (slope,) = torch.autograd.grad(first.square().sum(), moving, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), moving)
        assert curvature.device == moving.device
        found.append(torch.stack([slope.detach().cpu(), curvature.cpu()]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_tensors_report_the_device_and_so_do_those_made_of_them(gpu):
    there = normal(4, 3).to(gpu.device)
    made = [
        *(there, there.T[1:], there + 1, torch.zeros_like(there), there.new_zeros(2)),
        *(torch.tensor([1.0], device=gpu.device), there.new_tensor([1.0]), torch.as_tensor([1.0], device=gpu.device)),
        *(
            copy.deepcopy(there),
            nn.BatchNorm1d(3).to(gpu.device).weight,
            torch.empty(0, device="cuda"),
            torch.ones(2, device=there.device),
        ),
    ]
    assert all(one.device == gpu.device and one.is_cuda and not one.is_meta for one in made)
    assert there.cpu().device.type == "cpu"
    assert there[1:].untyped_storage().data_ptr() == there.untyped_storage().data_ptr()


def test_numbers_written_in_place_are_seen_by_views(gpu):
    there = torch.zeros(4, device=gpu.device)
    view = there[1:3]
    assert view.add_(1) is view
    there[0] = 5
    there[there > 4] = 7
    assert there.tolist() == [7, 1, 1, 0]


@pytest.mark.parametrize(
    "mix",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([there, here]),
        lambda here, there: there.mul_(here),
        lambda here, there: torch.where(there > 0, there, here),
        lambda here, there: nn.functional.linear(there, here),
    ],
)
def test_operations_that_mix_devices_are_refused(gpu, mix):
    here = torch.ones(3, 3)
    with pytest.raises(RuntimeError, match="device"):
        mix(here, here.to(gpu.device))


def test_a_single_number_and_indices_of_the_host_are_accepted(gpu):
    there = torch.arange(4, device=gpu.device)
    assert (there + torch.tensor(2)).tolist() == [2, 3, 4, 5]
    gpu.taken()
    chosen = there[torch.tensor([3, 0])]
    counts = gpu.taken()
    assert chosen.tolist() == [3, 0]
    assert (counts.syncs, counts.to_device) == (1, 16)
    assert there[[3, 0]].tolist() == [3, 0]
    assert there.view(2, 2)[:, [True, False]].tolist() == [[0], [2]]
    there[[0, 1]] = 9
    assert there.tolist() == [9, 9, 2, 3]


def test_draws_take_a_generator_of_their_own_device(gpu):
    own = torch.Generator(gpu.device).manual_seed(0)
    assert own.device == gpu.device
    first = torch.randn(3, generator=own, device=gpu.device)
    again = torch.randn(3, generator=own.manual_seed(0), device=gpu.device)
    assert torch.equal(first, again)
    assert torch.Generator().device == torch.device("cpu")
    for device, other in ((gpu.device, torch.Generator()), (torch.device("cpu"), own)):
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(3, generator=other, device=device)
        with pytest.raises(RuntimeError, match="generator"):
            torch.empty(3, device=device).normal_(generator=other)


@pytest.mark.parametrize(
    ("ask", "num_waits"),
    [
        (lambda x: x.sum().item(), 1),
        (lambda x: float(x.amax()), 1),
        (lambda x: bool((x > 0).all()), 1),
        (lambda x: 1 if x.sum() > 0 else 0, 1),
        (lambda x: x.tolist(), 1),
        (lambda x: x.cpu(), 1),
        (lambda x: x.nonzero(), 1),
        (lambda x: torch.where(x > 0), 1),
        (lambda x: x[x > 0], 1),
        (lambda x: x.masked_select(x > 0), 1),
        (lambda x: torch.equal(x, x + 1), 1),
        (lambda x: torch.where(x > 0, x, 0).sum().sqrt(), 0),
        (lambda x: x[torch.arange(2, device=x.device)].topk(1), 0),
        (lambda x: torch.ones(3, dtype=x.dtype).to(x.device), 1),
        (lambda x: torch.ones(3, dtype=x.dtype).to(x.device, non_blocking=True), 0),
    ],
)
def test_waits_for_the_device_are_counted(gpu, ask, num_waits):
    there = torch.arange(1.0, 5.0).to(gpu.device)
    gpu.taken()
    ask(there)
    counts = gpu.taken()
    assert counts.syncs == len(counts.waits) == num_waits


def test_copies_are_counted_in_bytes_and_launches_by_number(gpu):
    there = torch.ones(5).to(gpu.device)
    counts = gpu.taken()
    assert (counts.to_device, counts.to_host, counts.launches) == (20, 0, 0)
    back = ((there[1:] + 1).exp() * 2).cpu()
    counts = gpu.taken()
    assert (counts.to_device, counts.to_host, counts.launches) == (0, 16, 3)
    torch.empty(4, device=gpu.device).copy_(back)
    assert gpu.taken().to_device == 16


def test_a_network_is_moved_to_the_device_and_checked_there(gpu):
    network = Network.of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)))
    inputs = torch.randn(6, 3, generator=generator())
    there = network.to(gpu.device)
    there.check(inputs.to(gpu.device))
    outputs = there(there.weights, inputs.to(gpu.device))
    assert outputs.device == there.weights.device == gpu.device
    torch.testing.assert_close(outputs.cpu(), network(network.weights, inputs))


def test_annotations_that_were_looked_up_on_the_device_take_a_generator_elsewhere():
    with pretend.gpu():
        looked_up = torch.Generator
    assert isinstance(torch.Generator(), looked_up)
    assert not isinstance(0, looked_up)
