"""Linear algebra on products alone; knows no networks."""

from __future__ import annotations

import math
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
    or rounding: beyond it the iterations of a singular A would only amplify what is rounded. Where `right` or a product
    is not finite, the solution is NaN.
    """
    tolerance = max(tolerance, 8 * torch.finfo(right.dtype).eps)
    norm = torch.linalg.vector_norm(right)
    if not math.isfinite(float(norm)):
        return _unsolved(right, 0)
    solution = torch.zeros_like(right) if initial is None else initial.clone()
    remaining = right.clone() if initial is None else right - product(solution)
    direction = remaining.clone()
    square = remaining.square().sum()
    done = 0
    while done < iterations and float(square.sqrt()) > tolerance * float(norm) and float(square) > 0:
        image = product(direction)
        curvature = (direction * image).sum()
        done += 1
        if not math.isfinite(float(curvature)):
            return _unsolved(right, done)
        if not float(curvature) > 0:  # the rest lies in the null space of A, to rounding
            break
        length = square / curvature
        solution += length * direction
        remaining -= length * image
        before, square = square, remaining.square().sum()
        direction = remaining + (square / before) * direction
    residual = float(square.sqrt() / norm) if float(norm) > 0 else 0.0
    return LinearSolution(solution, residual, done)


def minimal_residual(product: Product, right: Tensor, *, iterations: int, tolerance: float = 0.0) -> LinearSolution:
    """Solve `A x = right` for a square A given by its product: of all x in the Krylov space, the least |A x - right|.

    GMRES (Saad & Schultz 1986) with every vector of the basis kept, one like `right` an iteration, and orthogonalised
    twice: in float32 and where A is badly conditioned, conjugate gradients, which keep none, take several times as many
    products. `right` may have any shape. Ends after `iterations` products (one more measures the residual that is
    stated), when the relative residual is at most `tolerance` but for rounding, or when the space is exhausted. Where
    `right` or a product is not finite, the solution is NaN.
    """
    norm = float(torch.linalg.vector_norm(right))
    if not math.isfinite(norm):
        return _unsolved(right, 0)
    if iterations < 1 or norm == 0:
        return LinearSolution(torch.zeros_like(right), float(norm > 0), 0)
    basis = right.new_empty(iterations + 1, right.numel())
    basis[0] = right.flatten() / norm
    hessenberg = torch.zeros(iterations + 1, iterations, dtype=torch.float64)
    across = torch.zeros(iterations + 1, dtype=torch.float64)  # H^T across = 0: the residual is 1 / |across|
    across[0] = 1
    for k in range(iterations):
        image = product(basis[k].view_as(right)).flatten()
        scale = float(torch.linalg.vector_norm(image))
        if not math.isfinite(scale):
            return _unsolved(right, k + 1)
        for _ in range(2):
            along = basis[: k + 1] @ image
            image = image - basis[: k + 1].T @ along
            hessenberg[: k + 1, k] += along.to(hessenberg)
        length = float(torch.linalg.vector_norm(image))
        if length <= 10 * torch.finfo(right.dtype).eps * scale:  # the space is exhausted
            break
        hessenberg[k + 1, k] = length
        across[k + 1] = -(across[: k + 1] @ hessenberg[: k + 1, k]) / length
        basis[k + 1] = image / length
        if tolerance * float(torch.linalg.vector_norm(across)) >= 1:
            break
    start = torch.zeros(k + 2, 1, dtype=torch.float64)
    start[0] = norm
    parts = torch.linalg.lstsq(hessenberg[: k + 2, : k + 1], start, driver="gelsd").solution[:, 0]
    solution = (basis[: k + 1].T @ parts.to(basis)).view_as(right)
    return LinearSolution(solution, float(torch.linalg.vector_norm(right - product(solution))) / norm, k + 1)


def solve_in_sample_space(gram: Tensor, right: Tensor, *, shift: float) -> Tensor:
    """`(G + shift I)^-1 right` for a Gram matrix G = J J^T [K, K] and `right` [K]; `shift` >= 0.

    By Cholesky where `shift` is above the rounding of G. With `shift` = 0 the pseudo-inverse is meant: directions whose
    eigenvalue is rounding error are left out. NaN where G is not finite.
    """
    if shift > len(gram) * torch.finfo(gram.dtype).eps * float(gram.diagonal().max()):
        factor, failed = torch.linalg.cholesky_ex(gram + shift * torch.eye(len(gram)).to(gram))
        if not int(failed):
            return torch.cholesky_solve(right[:, None], factor)[:, 0]
    values, vectors = eigh(gram)
    floor = values.abs().max() * len(gram) * torch.finfo(gram.dtype).eps
    inverse = torch.where(values > floor, 1 / (values.clamp(min=0) + shift), 1 / shift if shift > 0 else 0.0)
    return vectors @ (inverse * (vectors.T @ right))


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [K] and eigenvectors [K, K] of a symmetric matrix; NaN where it is not finite: LAPACK would fail."""
    if bool(torch.isfinite(matrix).all()):
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    return torch.full_like(matrix[0], math.nan), torch.full_like(matrix, math.nan)


def _unsolved(right: Tensor, iterations: int) -> LinearSolution:
    return LinearSolution(torch.full_like(right, math.nan), math.nan, iterations)
