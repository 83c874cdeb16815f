"""Equivariance under the generators of a Lie group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fipray.border import checked, described
from fipray.border.functions import function_named
from fipray.errors import UsageError
from fipray.geometry.input_slopes import slopes_of
from fipray.geometry.keeps.kept import Vanishes, check_kept
from fipray.networks.network import Network
from fipray.registry import spec


@spec("equivariant")
@checked
@dataclass(frozen=True)
class Equivariant(Vanishes):
    """Equivariance under a Lie group, by its generators: `q = (df/dx X(x) - Y(f(x))) / scale` for each, target 0.

    X(x) is the direction in which a generator moves an input, and Y(f) that in which it moves an output; q = 0 for all
    inputs means that f commutes with the identity component of the group. A pass costs two backward passes for each
    generator. Inputs must be floating-point numbers.

    Args:
        function: `module:function`, which is called with inputs [N, ...] and outputs [N, C] and returns, for each
            generator, a pair: X(x), shaped as the inputs, and Y(f), shaped as the outputs, or None where outputs are
            invariant.
        scale: size of a residual that matters, in units of the outputs, above 0.
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
        function_named(self.function, ("inputs [N, ...]", "outputs [N, C]"))

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        generators = function_named(self.function, ("inputs [N, ...]", "outputs [N, C]"))
        outputs, slopes = slopes_of(partial(network, weights), inputs)
        residuals = []
        for of_inputs, of_outputs in _pairs(generators(inputs, outputs), self.function):
            slope = slopes(_like(of_inputs, inputs, f"X of {self.function}"))
            if of_outputs is not None:
                # Without Y the outputs are invariant, and the slope itself must vanish.
                slope = slope - _like(of_outputs, outputs, f"Y of {self.function}")
            residuals.append(slope.flatten(1))
        return torch.cat(residuals, 1) / self.scale


def _pairs(found: object, function: str) -> Sequence[tuple[Tensor, Tensor | None]]:
    if (
        not isinstance(found, (tuple, list))
        or not found
        or not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in found)
    ):
        raise UsageError(
            f"{function} returned {described(found)}; expected one pair for each generator: the direction in which it "
            "moves inputs, and that in which it moves outputs, or None"
        )
    return found


def _like(found: object, wanted: Tensor, name: str) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        raise UsageError(f"{name} is {described(found)}; expected a tensor of shape {list(wanted.shape)}")
    return found.to(wanted.dtype)
