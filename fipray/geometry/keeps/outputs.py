"""Outputs as a kept quantity."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fipray.border import checked
from fipray.geometry.keeps.kept import Stays, check_kept
from fipray.geometry.outputs import FisherRao
from fipray.networks.embedding import OutputGeometry
from fipray.networks.network import Network
from fipray.registry import spec


@spec("outputs")
@checked
@dataclass(frozen=True)
class Outputs(Stays):
    """Outputs of the network, embedded by an output geometry: `q = s(f(w, x))`, kept at their value at the start.

    Args:
        geometry: embedding of the outputs.
        on: see `Kept`.
        held_out: see `Kept`.
        budget: see `Kept`; above 0.

    Raises:
        UsageError: for a budget out of range.
    """

    geometry: OutputGeometry = FisherRao()
    on: str = ""
    held_out: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        check_kept(self)

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        return self.geometry.embed(network(weights, inputs))
