"""Steps of weight matrices along orthogonal matrices: steepest descent in the spectral norm."""

from __future__ import annotations

import torch
from torch import Tensor

from fipray.networks import Network

RMS = 0.2
"""Root mean square of a matrix's step in units of the learning rate: that of Adam's usual ones (Liu et al. 2025)."""
_COEFFICIENTS = ((7.3625, -20.7434, 15.1606), (2.9175, -2.1824, 0.4755))
"""a, b, c of odd polynomials `a x + b x^3 + c x^5` whose composition is nearest to 1 over .03..1, to within .38. Each
is the best over the range of those before it (Amsel et al. 2025), computed by linear programming."""


@torch.no_grad()
def orthogonalise(
    network: Network, displacement: Tensor, momentum: Tensor, rate: float, mask: Tensor | None = None
) -> Tensor:
    """Replace the displacements of weight matrices by ones along their momentum's nearest orthogonal matrix.

    Of all changes of a matrix that change its outputs on no input of length 1 by more than a bound, that one goes down
    the furthest (Bernstein & Newhouse 2024).

    Args:
        network: its `matrices` are replaced; everything else stays.
        displacement: [P], overwritten.
        momentum: running mean [P] of the gradient.
        rate: learning rate.
        mask: factors [P] of the displacement, or None.

    Returns:
        L2 length of the displacement, a scalar on its device.
    """
    shapes: dict[tuple[int, int], list[slice]] = {}
    for slot in network.matrices:
        shapes.setdefault((slot.shape[0], slot.shape[1:].numel()), []).append(slice(slot.start, slot.stop))
    for (rows, columns), places in shapes.items():
        found = polar(torch.stack([momentum[place].view(rows, columns) for place in places]))
        # An orthogonal matrix of m rows and n columns has entries of root mean square max(m, n)^-1/2.
        found *= -rate * RMS * max(rows, columns) ** 0.5
        for place, one in zip(places, found.flatten(1), strict=True):
            displacement[place] = one if mask is None else one * mask[place]
    return torch.linalg.vector_norm(displacement)


def polar(matrices: Tensor) -> Tensor:
    """Compute roughly the orthogonal matrix nearest to each, by two Newton-Schulz iterations on its Gram matrix.

    Args:
        matrices: [K, m, n].

    Returns:
        Matrices [K, m, n] with the same singular vectors. Singular values of at least .03 `|G|^1/2`, G the Gram matrix
        and |G| its Frobenius norm, become 1 to within .38; smaller ones become smaller.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return polar(matrices.mT).mT
    # Twice: a Gram matrix of small numbers would underflow.
    wide = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(_TINY)
    gram = wide @ wide.mT
    size = torch.linalg.matrix_norm(gram, keepdim=True).clamp_min(_TINY)  # at least the square of the largest value
    gram = gram / size
    first = _factor(gram, *_COEFFICIENTS[0])
    second = _factor(first @ gram @ first, *_COEFFICIENTS[1])
    return second @ first @ wide / size.sqrt()


def _factor(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """Compute `a I + b G + c G^2`, G the Gram matrix of X; times X it is the polynomial of X's singular values."""
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor


_TINY = 1e-30
