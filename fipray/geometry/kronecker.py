"""Kronecker-factored metric: small enough to store, and independent of the inputs once computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.errors import NetworkError, UsageError
from fipray.geometry.layers import Place
from fipray.geometry.metric import Metric

_PLACE, _LEFT, _RIGHT = "place", "left", "right"


@dataclass(frozen=True, eq=False)
class Factors:
    """The Kronecker factors `L^T L` [out, out] and `R^T R` [in, in] of one layer, by their roots.

    Args:
        place: place of the layer in the flat weights.
        left: L [k, out].
        right: R [l, in], with one more column where the layer has a bias.
    """

    place: Place
    left: Tensor
    right: Tensor

    def squared(self, displacement: Tensor) -> Tensor:
        """Squared length of the layer's part of a displacement, `|L V R^T|^2`.

        Args:
            displacement: change of the flat weights [P], whose part for this layer is V [out, in].

        Returns:
            A scalar.
        """
        return (self.left @ self.place.matrix(displacement) @ self.right.T).square().sum()


@dataclass(frozen=True, eq=False)
class KroneckerMetric:
    """Kronecker-factored approximation of the metric g (K-FAC; Martens & Grosse 2015, Grosse & Martens 2016).

    Each linear map and convolution has one Kronecker product, and there is nothing between layers: the factors are
    `sum_c E[s_c s_c^T]`, of the sensitivities s_c of embedded output c to the layer's outputs, and `E[a a^T]`, of the
    layer's inputs, with a 1 appended where it has a bias. For convolutions the first is a mean over positions and the
    second a sum. For a single linear map with Euclidean outputs it is g itself.

    Args:
        layers: the factors of every layer.
    """

    layers: tuple[Factors, ...]

    @classmethod
    def of(cls, metric: Metric, *, fraction: float = 1.0) -> KroneckerMetric:
        """Compute the factors from a metric, at the cost of C backward passes and an eigendecomposition a factor.

        Args:
            metric: metric at the weights and inputs of interest.
            fraction: fraction of each factor's trace that its leading eigenvectors must hold, above 0 and up to 1. The
                others are dropped, which frees directions along which little changes and saves memory.

        Returns:
            The Kronecker metric.

        Raises:
            UsageError: if `fraction` is out of range.
            NetworkError: if weights act outside linear maps and convolutions, or in several of them.
        """
        if not 0 < fraction <= 1:
            raise UsageError(f"fraction is above 0 and up to 1, of a factor's trace; {fraction} was given")
        if not metric.in_layers:
            raise NetworkError(
                "a Kronecker metric covers linear maps and convolutions that hold each weight once, and other weights "
                "move here too: choose which weights move with Network.of(module, moving=...), or keep inputs instead"
            )
        sizes = [layer.num_outputs for layer in metric.layers]
        lefts = [metric.embedded.new_zeros(size, size) for size in sizes]
        # One output at a time: the sensitivities of all outputs together would take C times the memory.
        for number in range(metric.embedded.shape[1]):
            for left, sensitivities in zip(lefts, metric.of_output(number), strict=True):
                rows = sensitivities.flatten(0, 1)
                # A mean over inputs and positions, while the right factor sums over positions.
                left.addmm_(rows.T, rows, alpha=1 / len(rows))
        found = []
        for layer, left in zip(metric.layers, lefts, strict=True):
            rows = layer.patches().flatten(0, 1)
            place = Place(layer.weight, layer.shape, layer.bias)
            found.append(Factors(place, _root(left, fraction), _root(rows.T @ rows / metric.num_inputs, fraction)))
        return cls(tuple(found))

    def squared_length(self, displacement: Tensor) -> Tensor:
        """Squared length `v^T g v` of a displacement: to second order, the squared functional distance that it makes.

        Args:
            displacement: change v of the flat weights [P].

        Returns:
            A scalar.
        """
        return torch.stack([layer.squared(displacement) for layer in self.layers]).sum()

    @property
    def num_weights(self) -> int:
        """Number of weights P of the network: every weight lies in one of the layers."""
        places = [layer.place for layer in self.layers]
        return sum(place.size + (0 if place.bias is None else place.num_outputs) for place in places)

    @property
    def num_bytes(self) -> int:
        """Bytes of all factors."""
        return sum(layer.left.nbytes + layer.right.nbytes for layer in self.layers)

    def arrays(self) -> dict[str, Tensor]:
        """All tensors that define the metric, by name; `from_arrays` is the inverse."""
        arrays = {}
        for number, layer in enumerate(self.layers):
            # Arrays hold no None: -1 stands for no bias.
            bias = -1 if layer.place.bias is None else layer.place.bias
            arrays[f"{number}.{_PLACE}"] = torch.tensor([layer.place.weight, bias, *layer.place.shape])
            arrays[f"{number}.{_LEFT}"], arrays[f"{number}.{_RIGHT}"] = layer.left, layer.right
        return arrays

    @classmethod
    def from_arrays(cls, kept: Mapping[str, Tensor]) -> KroneckerMetric:
        """Restore a metric from the tensors that `arrays` returned.

        Args:
            kept: tensors by name.

        Returns:
            The Kronecker metric.
        """
        found = []
        for number in range(len(kept) // 3):
            weight, bias, *shape = kept[f"{number}.{_PLACE}"].tolist()
            place = Place(weight, tuple(shape), None if bias < 0 else bias)
            found.append(Factors(place, kept[f"{number}.{_LEFT}"], kept[f"{number}.{_RIGHT}"]))
        return cls(tuple(found))


def _root(matrix: Tensor, fraction: float) -> Tensor:
    """Root [k, n] of a matrix [n, n]: the fewest rows for which `root^T root` has this fraction of its trace."""
    # In float64: the small eigenvalues of a float32 matrix are rounding errors.
    values, vectors = torch.linalg.eigh(matrix.double())
    # Rounding makes some eigenvalues of a singular matrix negative, whose roots would be NaN.
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    before = values.cumsum(0) - values
    # `before` excludes the eigenvalue itself, so the one that reaches the fraction is kept.
    kept = (before < fraction * values.sum()) & (values > 0)
    return (values[kept].sqrt() * vectors[:, kept]).T.to(matrix.dtype).contiguous()
