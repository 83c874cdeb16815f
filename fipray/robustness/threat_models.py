"""Threat models: the changes of an input that an attacker may make."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """Allowed changes of an input: at most `epsilon` in a norm, within [lower, upper] in every coordinate.

    Args:
        norm: "linf" or "l2".
        epsilon: largest change, finite and at least 0, in units of the classifier's inputs.
        lower: lower bound of every coordinate, in the same units; may be infinite.
        upper: upper bound of every coordinate, above `lower`; may be infinite.

    Raises:
        UsageError: for an epsilon out of range, or a lower bound that is not below the upper one.
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
        """Project inputs on the threat model.

        Args:
            adversarial: inputs [N, ...].
            clean: clean inputs [N, ...] within the bounds.

        Returns:
            The nearest allowed inputs [N, ...] in Euclidean distance.
        """
        if self.norm == "linf":
            return adversarial.clamp(*self._box(clean))
        change = (adversarial - clean).flatten(1)
        nearest = _shorten(change, self.lower - clean.flatten(1), self.upper - clean.flatten(1), self.epsilon)
        # clean + (upper - clean) may round to a number just above upper
        return (clean + nearest.view_as(clean)).clamp_(self.lower, self.upper)

    def projection(self, clean: Tensor) -> Callable[[Tensor], Tensor]:
        """Prepare projections around the same clean inputs, as the steps of an attack need them.

        Args:
            clean: clean inputs [N, ...] within the bounds.

        Returns:
            `project` as a function of the adversarial inputs alone, which may write its result into them.
        """
        if self.norm == "linf":
            lowest, highest = self._box(clean)
            return lambda adversarial: adversarial.clamp_(lowest, highest)
        return lambda adversarial: self.project(adversarial, clean)

    def _box(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest allowed value of each coordinate in linf."""
        return (clean - self.epsilon).clamp_min_(self.lower), (clean + self.epsilon).clamp_max_(self.upper)

    def contains(self, adversarial: Tensor, clean: Tensor, atol: float = 1e-6) -> Tensor:
        """Check which inputs are allowed, up to rounding errors.

        Args:
            adversarial: inputs [N, ...].
            clean: clean inputs [N, ...].
            atol: slack relative to the largest of 1, epsilon and the finite bounds; raised to 4 rounding units of the
                dtype where that is more, as in half precision.

        Returns:
            Booleans [N].
        """
        slack = self.slack(clean.dtype, atol)
        change = (adversarial - clean).flatten(1)
        if self.norm == "linf" and change.device.type == "cpu" and change.numel():
            # Extremes of all inputs together take a third of the time of those of each, and mostly they suffice.
            least, greatest, lowest, highest = torch.stack([*change.aminmax(), *adversarial.aminmax()]).tolist()
            nearest = max(-least, greatest) <= self.epsilon + slack
            if nearest and lowest >= self.lower - slack and highest <= self.upper + slack:
                return torch.ones(len(change), dtype=torch.bool)
        if self.norm == "linf":
            near = (change.amin(1) >= -self.epsilon - slack) & (change.amax(1) <= self.epsilon + slack)
        else:
            near = change.norm(dim=1) <= self.epsilon + slack
        # By extremes, a tenth of the time that comparisons of all numbers take on a CPU. Those of NaN are NaN, which is
        # within no bounds.
        flat = adversarial.flatten(1)
        return near & (flat.amin(1) >= self.lower - slack) & (flat.amax(1) <= self.upper + slack)

    def slack(self, dtype: torch.dtype, atol: float = 1e-6) -> float:
        """Largest rounding error by which inputs may exceed the threat model.

        Args:
            dtype: dtype of the inputs.
            atol: see `contains`.

        Returns:
            The slack, in the units of the inputs.
        """
        # Rounding errors grow with the numbers, not with the change.
        largest = max(1.0, *(abs(size) for size in (self.epsilon, self.lower, self.upper) if math.isfinite(size)))
        return max(atol, 4 * torch.finfo(dtype).eps) * largest

    def starts(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Draw random allowed inputs: uniform in the ball around each clean input, then projected on the bounds.

        Args:
            clean: clean inputs [N, ...].
            generator: source of the draws, best on the device of `clean`. Draws of a generator on the CPU are the same
                everywhere, and are sent to the device.

        Returns:
            Inputs [N, ...] on the device of `clean`.
        """
        if self.norm == "linf":
            draws = torch.rand(clean.shape, generator=generator, dtype=clean.dtype, device=generator.device)
            change = draws.mul_(2).sub_(1).mul_(self.epsilon)
        else:
            draws = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=generator.device)
            fraction = torch.rand(len(clean), generator=generator, dtype=clean.dtype, device=generator.device)
            # Uniform in the ball: the fraction of its volume within radius r is r^D.
            change = _unit(draws) * each(self.epsilon * fraction ** (1 / clean[0].numel()), draws)
        # In place where the draws are there already: large tensors take longer to allocate than to add.
        return self.projection(clean)(change.to(clean.device).add_(clean))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Direction of steepest descent in the norm.

        Args:
            gradient: gradients [N, ...] of a function; NaN counts as 0.

        Returns:
            Directions [N, ...] of length 1 in `norm` along which the function falls fastest; 0 where the gradient is 0.
        """
        if self.norm == "linf":
            return gradient.sign().neg_()  # the sign of NaN is 0
        # A NaN in one coordinate must not move all others to NaN.
        # Infinities become the largest finite numbers, and keep their direction.
        return -_unit(gradient.nan_to_num(nan=0.0))


def _shorten(change: Tensor, lowest: Tensor, highest: Tensor, radius: float) -> Tensor:
    """Project changes [N, D] on the intersection of a box [lowest, highest] that contains 0 and a ball.

    The nearest point is clip(t * change) for the largest t <= 1 that fits in the ball (Karush-Kuhn-Tucker conditions).
    Its squared length, sum_i min(t^2 change_i^2, bound_i^2), is concave and piecewise linear in t^2, so Newton's
    iteration rises from t = 0 without passing the root and reaches it after finitely many steps. Clipping and scaling
    in turn would stop short of it.
    """
    square = change.square()
    bound = torch.where(change > 0, highest, lowest).square()
    scale = torch.zeros_like(square[:, :1])
    # Reading a number from a GPU costs the host more than some steps without an effect cost the GPU.
    every = 1 if change.device.type == "cpu" else 8
    for number in range(1, _MOST_NEWTON_STEPS + 1):
        # Coordinates with an infinite bound stay free; torch.where keeps that bound out of the sum.
        free = scale * square < bound
        left = radius**2 - torch.where(free, 0, bound).sum(1, keepdim=True)
        slope = torch.where(free, square, 0).sum(1, keepdim=True)
        # Where no coordinate is free the slope is 0, and any scale gives the same point.
        larger = (left.clamp_min(0) / slope.clamp_min(torch.finfo(slope.dtype).tiny)).clamp_max(1)
        if number % every == 0 and not (larger > scale).any():
            break
        scale = torch.maximum(scale, larger)
    return torch.minimum(torch.maximum(scale.sqrt() * change, lowest), highest)


_MOST_NEWTON_STEPS = 32
"""Every iterate lies in the ball, so the limit only costs tightness; images need about 5 steps."""


def _unit(vectors: Tensor) -> Tensor:
    """Scale each example of `vectors` [N, ...] to length 1; zeros stay zero."""
    tiny = torch.finfo(vectors.dtype).tiny
    flat = vectors.flatten(1)
    # By the largest entry first: the square of 1e-30 is zero in float32.
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)
    return (flat / flat.norm(dim=1, keepdim=True).clamp_min(tiny)).view_as(vectors)


def each(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value an example for multiplication with the examples.

    Args:
        values: values [N].
        like: tensor [N, ...].

    Returns:
        The values [N, 1, ...], with as many dimensions as `like`.
    """
    return values.view(-1, *[1] * (like.dim() - 1))
