"""Linear algebra on products alone; knows no networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LinearSolution:
    """`solution`, the relative residual |A x - b| / |b| that it leaves, and the products with A that it took."""

    solution: Tensor
    residual: float
    iterations: int


def conjugate_gradients(
    product: Product, right: Tensor, *, iterations: int, tolerance: float = 0.0, initial: Tensor | None = None
) -> LinearSolution:
    """Solve `A x = right` for a symmetric positive semidefinite A given by its product (Hestenes & Stiefel 1952).

    `right` may have any shape. Ends after `iterations` products, or when the relative residual is at most `tolerance`,
    or rounding: beyond it the iterations of a singular A would only amplify what is rounded.
    """
    tolerance = max(tolerance, 8 * torch.finfo(right.dtype).eps)
    norm = torch.linalg.vector_norm(right)
    solution = torch.zeros_like(right) if initial is None else initial.clone()
    remaining = right.clone() if initial is None else right - product(solution)
    direction = remaining.clone()
    square = remaining.square().sum()
    done = 0
    while done < iterations and float(square.sqrt()) > tolerance * float(norm) and float(square) > 0:
        image = product(direction)
        curvature = (direction * image).sum()
        done += 1
        if not float(curvature) > 0:  # the rest lies in the null space of A, to rounding
            break
        length = square / curvature
        solution += length * direction
        remaining -= length * image
        before, square = square, remaining.square().sum()
        direction = remaining + (square / before) * direction
    residual = float(square.sqrt() / norm) if float(norm) > 0 else 0.0
    return LinearSolution(solution, residual, done)


def solve_in_sample_space(gram: Tensor, right: Tensor, *, shift: float) -> Tensor:
    """`(G + shift I)^-1 right` for a Gram matrix G = J J^T [K, K] and `right` [K]; `shift` >= 0.

    With `shift` = 0 the pseudo-inverse is meant: directions whose eigenvalue is rounding error are left out.
    """
    values, vectors = torch.linalg.eigh(gram)
    floor = values.abs().max() * len(gram) * torch.finfo(gram.dtype).eps
    inverse = torch.where(values > floor, 1 / (values.clamp(min=0) + shift), 1 / shift if shift > 0 else 0.0)
    return vectors @ (inverse * (vectors.T @ right))
