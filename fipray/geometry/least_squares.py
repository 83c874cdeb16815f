"""Damped least squares with a Jacobian, iterated in sample space."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def damped_least_squares(
    j: Callable[[list[Tensor]], Tensor],
    jt: Callable[[Tensor], list[Tensor]],
    right: Tensor,
    *,
    shift: float,
    iterations: int,
) -> Tensor:
    """Minimise `|J x - b|^2 + shift |x|^2` by conjugate gradients on the normal equations.

    The iterates are those of conjugate gradients on `(J^T J + shift I) x = J^T b` (Hestenes & Stiefel 1952). All of
    them lie in the range of J^T, so only y with `x = J^T y` is iterated: every vector but the products with J^T is as
    small as b, where the weights of a large network would make ten passes over memory an iteration.

    Cost: `iterations` products with J and one more with J^T.

    Args:
        j: v -> J v, for v in pieces as `jt` returns them.
        jt: u -> J^T u, for u shaped as b, as tensors of any shapes.
        right: b, of any shape.
        shift: at least 0.
        iterations: number of iterations, at least 1. Once the residual is rounding, further ones change nothing.

    Returns:
        y, shaped as b; NaN if b or a product is not finite.
    """
    solution, remaining = torch.zeros_like(right), right.clone()  # y and b - J x
    rest = remaining  # the negative gradient of half the objective is J^T times this
    gradient = jt(rest)
    image = j(gradient)  # J J^T of the search direction, which is J^T w
    square, search = _square(gradient), rest
    floor = square * (8 * torch.finfo(right.dtype).eps) ** 2
    for last in range(iterations - 1, -1, -1):
        curvature = image.square().sum() + shift * (search * image).sum()
        # Nothing is fetched to decide when to stop: a length of 0 leaves everything as it is.
        done = (square <= floor) | (curvature <= 0)
        length = torch.where(done, 0.0, square / curvature)
        solution = solution + length * search
        remaining = remaining - length * image
        if not last:
            break
        rest = remaining - shift * solution
        gradient = jt(rest)
        before, square = square, _square(gradient)
        factor = torch.where(done, 0.0, square / before)
        search, image = rest + factor * search, j(gradient) + factor * image
    return solution


def _square(pieces: Sequence[Tensor]) -> Tensor:
    # Norms take one pass over memory, and a sum of squares three.
    return torch.stack([torch.linalg.vector_norm(piece) for piece in pieces]).square().sum()
