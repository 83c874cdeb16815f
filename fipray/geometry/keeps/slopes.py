"""Slopes of the outputs with respect to the inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import UsageError
from fipray.geometry.input_slopes import slopes_of
from fipray.geometry.keeps.kept import Stays, check_kept
from fipray.networks.network import Network
from fipray.registry import spec


@spec("slopes")
@checked
@dataclass(frozen=True)
class Slopes(Stays):
    """Slopes of the outputs along directions of input space: `q = df/dx u / scale`, kept at their value at the start.

    A pass costs one backward pass and one more for each direction. Inputs must be floating-point numbers.

    Args:
        scale: size of a change of slope that matters, in units of outputs per unit of inputs, above 0.
        directions: number of random directions u of length 1, the same for all inputs, at least 1.
        seed: seed of the directions.
        on: see `Kept`.
        held_out: see `Kept`.
        budget: see `Kept`; above 0.

    Raises:
        UsageError: for a scale, a budget or a number of directions out of range.
    """

    scale: float = 1.0
    directions: int = 4
    seed: Seed = 0
    on: str = ""
    held_out: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        check_kept(self, self.scale)
        if self.directions < 1:
            raise UsageError(f"directions is {self.directions}: at least one direction is needed")

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        _, slopes = slopes_of(partial(network, weights), inputs)
        directions = _directions(self.directions, inputs.shape[1:], self.seed, inputs.dtype, inputs.device)
        found = [slopes(direction.expand_as(inputs)) for direction in directions]
        return torch.cat([slope.flatten(1) for slope in found], 1) / self.scale


# cached, as every step asks for the same ones, and they would be sent to a GPU each time
@lru_cache(maxsize=8)
def _directions(number: int, shape: torch.Size, seed: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draw unit directions [number, ...]."""
    # On the CPU and in float64, so that a seed means the same directions on every device and in every dtype.
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):  # what is kept must suit any later mode
        found = torch.randn(number, *shape, generator=generator, dtype=torch.float64)
        found /= torch.linalg.vector_norm(found.flatten(1), dim=1).view(-1, *[1] * len(shape))
        return found.to(device=device, dtype=dtype)
