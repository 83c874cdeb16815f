"""The recipe `connect`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fipray.errors import UsageError
from fipray.recipes import connect
from tests.recipes.conftest import blobs, small_data


def permuted(module: nn.Module) -> nn.Module:
    """The same function with the hidden neurons in another order."""
    first, last = module[0], module[2]  # type: ignore[index]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    made = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        for new, old in ((made[0].weight, first.weight[order]), (made[0].bias, first.bias[order])):
            new.copy_(old)
        made[2].weight.copy_(last.weight[:, order])
        made[2].bias.copy_(last.bias)
    return made


def test_connect_aligns_a_permuted_copy_and_measures_no_barrier(module, data):
    noisy = permuted(module)
    with torch.no_grad():
        noisy[0].bias += 0.01  # another network, as a path to the same one has no direction
    found = connect(module, noisy, data)
    assert found.connection.outcome.kind == "connected"
    assert "was aligned" in found.alignment
    assert found.loss == "functional distance"
    assert found.path.maximum < 0.2
    assert "barrier in functional distance on held-out inputs" in repr(found)
    inputs = torch.from_numpy(data.held_out)
    assert torch.equal(found.module_at(0)(inputs), module(inputs))


def test_connect_says_why_it_did_not_align_and_takes_labels(module):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 3)

        def forward(self, inputs):
            return self.inner(inputs)

    labels = blobs(700)[1][400:500]
    first, second = Own().eval(), Own().eval()
    with torch.no_grad():
        for number, each in enumerate((first, second)):
            each.inner.weight.copy_((1 + number / 10) * torch.eye(3, 8))
            each.inner.bias.zero_()
    found = connect(first, second, small_data(held_out_labels=labels), num_rounds=1, num_steps=2)
    assert "was not aligned" in found.alignment
    assert found.loss == "error rate"
    assert found.line.barrier == pytest.approx(0.0, abs=1e-12)  # both rank the classes alike


def test_connect_refuses_another_architecture(module, data):
    with pytest.raises(UsageError, match="same architecture"):
        connect(module, nn.Sequential(nn.Linear(8, 3)).eval(), data)
