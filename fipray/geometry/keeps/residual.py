"""Residuals that must vanish, such as those of a conservation law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from fipray.border import checked
from fipray.border.functions import function_named
from fipray.geometry.keeps.kept import Vanishes, check_kept, rows_of
from fipray.networks.network import Network
from fipray.registry import spec


@spec("residual")
@checked
@dataclass(frozen=True)
class Residual(Vanishes):
    """A residual that must vanish, such as the violation of a conservation law: `q = r(f, x) / scale`, target 0.

    Args:
        function: r as `module:function`. It is called with the network at fixed weights, a function of inputs
            [N, ...] to outputs [N, C], and with inputs, and returns a tensor [N, ...] computed in torch.
        scale: size of a residual that matters, in its own unit, above 0.
        on: see `Kept`.
        held_out: see `Kept`.
        budget: see `Kept`; above 0.

    Raises:
        UsageError: for a scale or budget out of range, and for an unknown function.
    """

    function: str
    scale: float = 1.0
    on: str = ""
    held_out: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        check_kept(self, self.scale)
        # Looked up here so that a misspelt name fails at once, and not first in a worker.
        function_named(self.function, ("a network", "inputs [N, ...]"))

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        # Found by name at each call: the spec travels to workers as text.
        function = function_named(self.function, ("a network", "inputs [N, ...]"))
        residual = function(partial(network, weights), inputs)
        return rows_of(residual, len(inputs), f"the function {self.function}") / self.scale
