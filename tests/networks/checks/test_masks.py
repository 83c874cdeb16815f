"""Pruning is refused where the forward sets weights to zero itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.faults.kinds import Forward, features
from fipray.errors import NetworkError
from fipray.networks import Network
from fipray.paths import Sparsify
from fipray.paths.objective import check_network
from tests.networks.checks.checking import rounded

MASK = (torch.arange(60) % 3 == 0).float().view(5, 12)
MASKED: Mapping[str, Callable[[Tensor], Tensor]] = {
    "times": lambda weight: weight * MASK,
    "times, the other way": lambda weight: MASK * weight,
    "where": lambda weight: torch.where(MASK > 0, weight, 0.0),
    "filled": lambda weight: weight.masked_fill(MASK == 0, 0),
    "rectified": lambda weight: weight.relu(),
}


@pytest.mark.parametrize("mask", MASKED.values(), ids=MASKED.keys())
def test_pruning_refuses_a_network_whose_forward_has_a_mask_of_its_own(mask: Callable[[Tensor], Tensor]):
    network = Network.of(Forward(lambda self, x: functional.linear(x, mask(self.layer.weight), self.layer.bias)))
    network.check(features(20))
    with pytest.raises(NetworkError, match=r"in the network's forward makes others of layer\.weight zero"):
        check_network(Sparsify(sparsity=0.5), network)


def test_pruning_takes_networks_whose_forward_scales_or_rounds_a_parameter():
    for way in (lambda weight: 2 * weight, rounded, lambda weight: weight.to(torch.float32)):
        network = Network.of(
            Forward(lambda self, x, way=way: functional.linear(x, way(self.layer.weight)) + self.layer.bias)
        )
        network.check(features(20))
        check_network(Sparsify(sparsity=0.5), network)
