"""A path as an object: the module at its end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fipray as fip
from fipray.paths import Outcome, PathPoint, WeightPath


def test_module_of_a_path_computes_what_the_network_computes_at_its_end():
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    path = fip.trace(module, fip.objectives.Sparsify(0.5), anchors=inputs[:30], held_out=inputs[30:], num_steps=5)
    pruned = path.module
    torch.testing.assert_close(pruned(inputs), fip.Network.of(module)(path.end.weights, inputs))
    assert not pruned.training
    assert pruned is not module
    assert float((torch.cat([p.flatten() for p in pruned.parameters()]) == 0).float().mean()) >= 0.45


def test_module_of_a_path_without_a_network_is_refused():
    path = WeightPath((PathPoint(0, torch.zeros(3), 0.1, 0.0),), Outcome("stuck", ""))
    with pytest.raises(fip.errors.UsageError, match="has no network"):
        _ = path.module
