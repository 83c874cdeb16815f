"""Threat models: what an attacker may do to an input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec


@spec("threat_model")
@checked
@dataclass(frozen=True)
class ThreatModel:
    """What an attacker may do: move an input at most `epsilon` (in `norm`), staying within [lower, upper] everywhere.

    `epsilon`, `lower` and `upper` are in the units of the classifier's inputs. A bound may be infinite.
    """

    norm: Literal["linf", "l2"]
    epsilon: float
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise UsageError(
                f"epsilon is {self.epsilon}: give a finite number of at least 0, in the units of the inputs"
            )
        if not self.lower < self.upper:
            raise UsageError(f"the bounds are [{self.lower}, {self.upper}]: give a lower bound below the upper one")

    def project(self, adversarial: Tensor, clean: Tensor) -> Tensor:
        """The nearest allowed inputs [N, ...], in Euclidean distance; `clean` [N, ...] lies within the bounds."""
        if self.norm == "linf":
            lowest = (clean - self.epsilon).clamp_min(self.lower)
            highest = (clean + self.epsilon).clamp_max(self.upper)
            return torch.minimum(torch.maximum(adversarial, lowest), highest)
        change = (adversarial - clean).flatten(1)
        nearest = _shorten(change, self.lower - clean.flatten(1), self.upper - clean.flatten(1), self.epsilon)
        # clean + (upper - clean) may round to just above upper
        return (clean + nearest.view_as(clean)).clamp(self.lower, self.upper)

    def contains(self, adversarial: Tensor, clean: Tensor, atol: float = 1e-6) -> Tensor:
        """Whether each example [N] is allowed, up to rounding: `atol` (in half precision more, as its numbers are
        coarser) times the largest of 1, epsilon and the finite bounds.
        """
        largest = max(1.0, *(abs(size) for size in (self.epsilon, self.lower, self.upper) if math.isfinite(size)))
        slack = max(atol, 4 * torch.finfo(clean.dtype).eps) * largest
        change = (adversarial - clean).flatten(1)
        length = change.abs().amax(1) if self.norm == "linf" else change.norm(dim=1)
        flat = adversarial.flatten(1)
        inside = (flat >= self.lower - slack) & (flat <= self.upper + slack)
        return (length <= self.epsilon + slack) & inside.all(1)

    def starts(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Random allowed inputs [N, ...]: uniform in the ball around each of `clean`, then projected on the bounds.

        Drawn where the generator lives and moved, so that a seed means the same on every device.
        """
        if self.norm == "linf":
            draws = torch.rand(clean.shape, generator=generator, dtype=clean.dtype, device=generator.device)
            change = (2 * draws - 1) * self.epsilon
        else:
            draws = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=generator.device)
            fraction = torch.rand(len(clean), generator=generator, dtype=clean.dtype, device=generator.device)
            change = _unit(draws) * each(self.epsilon * fraction ** (1 / clean[0].numel()), draws)
        return self.project(clean + change.to(clean.device), clean)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The direction [N, ...], of length 1 in `norm`, in which a function with this gradient falls fastest; or 0."""
        finite = gradient.nan_to_num(nan=0.0)
        return -finite.sign() if self.norm == "linf" else -_unit(finite)


def _shorten(change: Tensor, lowest: Tensor, highest: Tensor, radius: float) -> Tensor:
    """The nearest point [N, D] to `change` [N, D] in the box [lowest, highest], which holds 0, and the ball of this
    radius.

    It is clip(t * change) for the largest t <= 1 that fits in the ball (the Karush-Kuhn-Tucker conditions). Its squared
    length, sum_i min(t^2 change_i^2, bound_i^2), is concave and piecewise linear in t^2: Newton's iteration rises from
    t = 0 without ever passing the root, and meets it after finitely many steps. Clipping and scaling in turn would stop
    short of it.
    """
    square = change.square()
    bound = torch.where(change > 0, highest, lowest).square()
    scale = torch.zeros_like(square[:, :1])
    for _ in range(_MOST_NEWTON_STEPS):
        free = scale * square < bound
        left = radius**2 - torch.where(free, 0, bound).sum(1, keepdim=True)
        slope = torch.where(free, square, 0).sum(1, keepdim=True)
        larger = (left.clamp_min(0) / slope.clamp_min(torch.finfo(slope.dtype).tiny)).clamp_max(1)
        if not (larger > scale).any():
            break
        scale = torch.maximum(scale, larger)
    return torch.minimum(torch.maximum(scale.sqrt() * change, lowest), highest)


_MOST_NEWTON_STEPS = 32
"""Every iterate is inside the ball, so a bound costs nothing but tightness; about 5 are needed for images."""


def _unit(vectors: Tensor) -> Tensor:
    """Each example of `vectors` [N, ...] at length 1, or 0. Scaled first: the square of 1e-30 is zero in float32."""
    tiny = torch.finfo(vectors.dtype).tiny
    flat = vectors.flatten(1)
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)
    return (flat / flat.norm(dim=1, keepdim=True).clamp_min(tiny)).view_as(vectors)


def each(values: Tensor, like: Tensor) -> Tensor:
    """`values` [N], shaped to multiply each example of `like` [N, ...]."""
    return values.view(-1, *[1] * (like.dim() - 1))
