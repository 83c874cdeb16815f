"""Networks and ensembles that contenders of the comparison of robust networks make, and how they classify.

Imported by `python -m benchmarks.comparisons.ensembles`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fipray as fip
from fipray.robustness import Classifier

Choice = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Point:
    """Network that is judged: the average of its members, or the mixture of this with an accurate network."""

    members: tuple[nn.Module, ...]
    weights: tuple[float, ...] = ()
    accurate: nn.Module | None = None
    mixture: fip.robustness.Mixture | None = None

    @property
    def num_members(self) -> int:
        return len(self.members) + (self.accurate is not None)

    @property
    def classifier(self) -> Classifier:
        robust = deployed(self.members, self.weights)
        if self.accurate is None or self.mixture is None:
            return robust
        both, mixture = [deployed((self.accurate,)), robust], self.mixture
        return fip.Ensemble(both, weights=mixture.weights, temperatures=mixture.temperatures)


@dataclass(frozen=True, eq=False)
class Made:
    """Networks that a contender made, by name, which of them is its result, and what it cost.

    Paths make several: their members mixed with the base network, too. Only the choice of the mixture takes any time,
    which is part of the seconds.
    """

    points: Mapping[str, Point]
    result: str
    seconds: float
    settings: Choice


def deployed(members: tuple[nn.Module, ...], weights: tuple[float, ...] = ()) -> Classifier:
    """Take the network, or the average of all: by one call for all members if they differ in their weights alone."""
    networks = [fip.Network.of(member) for member in members]
    classifiers = [partial(network, network.weights) for network in networks]
    if len(networks) == 1:
        return classifiers[0]
    if any(True for _ in members[0].buffers()):
        return fip.Ensemble(classifiers, weights=weights)
    stack = torch.stack([network.weights for network in networks])
    return fip.robustness.StackedEnsemble(networks[0], stack, member_weights=weights)


@torch.no_grad()
def outputs(classifier: Classifier, inputs: Tensor) -> Tensor:
    """Compute outputs [N, C] in batches."""
    return torch.cat([classifier(part) for part in inputs.split(500)])
