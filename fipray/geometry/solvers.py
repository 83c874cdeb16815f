"""Linear solvers that need only products with the matrix, and small dense solves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
"""v -> A v, for a tensor of any shape."""


@dataclass(frozen=True)
class LinearSolution:
    """Result of an iterative solve of `A x = b`.

    Args:
        solution: x, shaped as b; NaN if b or a product was not finite.
        relative: relative residual |A x - b| / |b|; a tensor where the device has it.
        products: products with A that were used; a tensor where the device has it.
    """

    solution: Tensor
    relative: float | Tensor
    products: int | Tensor

    @property
    def residual(self) -> float:
        """Relative residual |A x - b| / |b|; 0 for b = 0. Waits for the device."""
        return float(self.relative)

    @property
    def iterations(self) -> int:
        """Products with A that were used. Waits for the device."""
        return int(self.products)


def conjugate_gradients(
    product: Product, right: Tensor, *, iterations: int, tolerance: float = 0.0, initial: Tensor | None = None
) -> LinearSolution:
    """Solve `A x = b` for a symmetric positive semidefinite A by conjugate gradients (Hestenes & Stiefel 1952).

    A GPU is not waited for at every iteration: up to 31 products more are made after the last that counts. They change
    nothing.

    Args:
        product: v -> A v.
        right: b, of any shape.
        iterations: largest number of products.
        tolerance: relative residual at which to stop; at least 8 times the rounding unit is used.
        initial: first iterate; None for 0.

    Returns:
        The solution; NaN if `right` or a product is not finite.
    """
    # Beyond rounding the iterations of a singular A would only amplify rounding errors.
    tolerance = max(tolerance, 8 * torch.finfo(right.dtype).eps)
    norm = torch.linalg.vector_norm(right)
    on_host = right.device.type == "cpu"
    if on_host and not math.isfinite(float(norm)):
        return _unsolved(right, 0)
    solution = torch.zeros_like(right) if initial is None else initial.clone()
    remaining = right.clone() if initial is None else right - product(solution)
    direction = remaining.clone()
    square = remaining.square().sum()
    goal, is_finite = tolerance * norm, torch.isfinite(norm)
    done, goes_on = torch.zeros((), dtype=torch.int64, device=right.device), (square.sqrt() > goal) & (square > 0)
    for number in range(iterations):
        # Reading a number from a GPU costs the host more than some products without an effect cost the GPU.
        if (on_host or (number and number % _BETWEEN_CHECKS == 0)) and not bool(goes_on):
            break
        image = product(direction)
        curvature = (direction * image).sum()
        done += goes_on
        if on_host:
            if not math.isfinite(float(curvature)):
                return _unsolved(right, int(done))
            if not float(curvature) > 0:  # the rest lies in the null space of A, to rounding
                break
            length = square / curvature
        else:
            is_finite = is_finite & (torch.isfinite(curvature) | ~goes_on)
            goes_on = goes_on & (curvature > 0)
            length = torch.where(goes_on, square / curvature, 0)
        # In place: a vector of a large network takes longer to allocate than to add. Sums stay sums of products, which
        # torch adds in pairs; its dot product in float32 is wrong by a thousandth for ten million numbers.
        solution.addcmul_(direction, length)
        remaining.addcmul_(image, length, value=-1)
        before, square = square, remaining.square().sum()
        if on_host:
            direction.mul_(square / before).add_(remaining)
            goes_on = (square.sqrt() > goal) & (square > 0)
        else:
            # A direction of zeros after the last iteration: later products are zero, too.
            square = torch.where(goes_on, square, before)
            direction.mul_(torch.where(goes_on, square / before, 0)).addcmul_(remaining, goes_on.to(right.dtype))
            goes_on = goes_on & (square.sqrt() > goal) & (square > 0)
    residual = torch.where(norm > 0, square.sqrt() / norm, 0)
    if on_host:
        return LinearSolution(solution, float(residual), int(done))
    return LinearSolution(torch.where(is_finite, solution, math.nan), torch.where(is_finite, residual, math.nan), done)


_BETWEEN_CHECKS = 32
"""Iterations after which a GPU is asked whether it is done."""


def minimal_residual(product: Product, right: Tensor, *, iterations: int, tolerance: float = 0.0) -> LinearSolution:
    """Solve `A x = b` for a square A by GMRES: the x of least |A x - b| in the Krylov space (Saad & Schultz 1986).

    Stores one basis vector shaped as b for each iteration and orthogonalises twice. In float32 and for ill-conditioned
    A, conjugate gradients, which store no basis, take several times as many products. Ends after `iterations` products,
    at the tolerance, or when the Krylov space is exhausted.

    Args:
        product: v -> A v.
        right: b, of any shape.
        iterations: largest number of products; one more measures the residual that is returned.
        tolerance: relative residual at which to stop, up to rounding.

    Returns:
        The solution; NaN if `right` or a product is not finite.
    """
    norm = float(torch.linalg.vector_norm(right))
    if not math.isfinite(norm):
        return _unsolved(right, 0)
    if iterations < 1 or norm == 0:
        return LinearSolution(torch.zeros_like(right), float(norm > 0), 0)
    basis = right.new_empty(iterations + 1, right.numel())
    basis[0] = right.flatten() / norm
    # The small system is kept in float64 on the CPU: it costs nothing, and is where the conditioning shows.
    hessenberg = torch.zeros(iterations + 1, iterations, dtype=torch.float64)
    across = torch.zeros(iterations + 1, dtype=torch.float64)  # H^T across = 0: the residual is 1 / |across|
    across[0] = 1
    for k in range(iterations):
        image = product(basis[k].view_as(right)).flatten()
        scale = float(torch.linalg.vector_norm(image))
        if not math.isfinite(scale):
            return _unsolved(right, k + 1)
        for _ in range(2):  # once leaves rounding errors along the basis that grow with the condition of A
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
    # gelsd allows for a rank-deficient system, as when the space is exhausted.
    parts = torch.linalg.lstsq(hessenberg[: k + 2, : k + 1], start, driver="gelsd").solution[:, 0]
    solution = (basis[: k + 1].T @ parts.to(basis)).view_as(right)
    return LinearSolution(solution, float(torch.linalg.vector_norm(right - product(solution))) / norm, k + 1)


def solve_in_sample_space(gram: Tensor, right: Tensor, *, shift: float) -> Tensor:
    """Solve `(G + shift I) x = b` for a Gram matrix `G = J J^T`.

    Uses Cholesky where `shift` is above the rounding errors of G, else an eigendecomposition.

    Args:
        gram: G [K, K].
        right: b [K].
        shift: at least 0. For 0 the pseudo-inverse is applied: eigenvalues that are rounding errors are left out.

    Returns:
        x [K]; NaN if G is not finite.
    """
    if shift > 0:
        # It reports failure by a number, where cholesky would raise.
        shifted = gram + shift * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        is_above = shift > len(gram) * torch.finfo(gram.dtype).eps * gram.diagonal().max()
        # A matrix that is indefinite by rounding falls through to the eigendecomposition.
        if bool(is_above & (failed == 0)):
            return torch.cholesky_solve(right[:, None], factor)[:, 0]
    values, vectors = eigh(gram)
    # The error bound of the eigendecomposition: smaller eigenvalues cannot be told from 0.
    floor = values.abs().max() * len(gram) * torch.finfo(gram.dtype).eps
    inverse = torch.where(values > floor, 1 / (values.clamp(min=0) + shift), 1 / shift if shift > 0 else 0.0)
    return vectors @ (inverse * (vectors.T @ right))


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition of a symmetric matrix.

    Args:
        matrix: symmetric matrix [K, K].

    Returns:
        Eigenvalues [K] in ascending order and eigenvectors [K, K] in columns; NaN if the matrix is not finite.
    """
    # LAPACK fails on a matrix that is not finite; NaN lets the caller reject the step instead.
    if bool(torch.isfinite(matrix).all()):
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    return torch.full_like(matrix[0], math.nan), torch.full_like(matrix, math.nan)


def _unsolved(right: Tensor, iterations: int) -> LinearSolution:
    return LinearSolution(torch.full_like(right, math.nan), math.nan, iterations)
