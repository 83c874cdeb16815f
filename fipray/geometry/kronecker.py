"""A metric that can be kept: far smaller than the inputs that it was taken on, and no longer in need of them."""

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
    """`L^T L` [out, out] and `R^T R` [in, in] of one layer, by their roots L [k, out] and R [l, in]."""

    place: Place
    left: Tensor
    right: Tensor

    def squared(self, displacement: Tensor) -> Tensor:
        """`|L V R^T|^2`, V the layer's part of `displacement` [P]."""
        return (self.left @ self.place.matrix(displacement) @ self.right.T).square().sum()


@dataclass(frozen=True, eq=False)
class KroneckerMetric:
    """`g` as a Kronecker product for each linear map and convolution, and nothing between them (K-FAC; Martens & Grosse
    2015, Grosse & Martens 2016): `sum_c E[s_c s_c^T]` of the sensitivities s_c of embedded output c to the layer's
    outputs, and `E[a a^T]` of its inputs, a 1 among them where it has a bias. Of convolutions the first is a mean over
    places and the second a sum. For one linear map with outputs embedded as they are, that is g itself.
    """

    layers: tuple[Factors, ...]

    @classmethod
    def of(cls, metric: Metric, *, fraction: float = 1.0) -> KroneckerMetric:
        """share: of the trace of each factor, above 0 and up to 1, that its leading eigenvectors must have; others are
        left out, so that directions along which little changes are free, and the memory is small.

        Raises NetworkError where weights act outside of linear maps and convolutions, or in several of them.
        """
        if not 0 < fraction <= 1:
            raise UsageError(f"share is a part of a trace, above 0 and up to 1; {fraction} was given")
        if not metric.in_layers:
            raise NetworkError(
                "a Kronecker metric is one of linear maps and convolutions that hold each weight once; other weights "
                "move here too: say which move with Network.of(module, moving=...), or keep inputs instead"
            )
        lefts = [torch.zeros(layer.num_outputs, layer.num_outputs).to(metric.embedded) for layer in metric.layers]
        for number in range(metric.embedded.shape[1]):
            for left, sensitivities in zip(lefts, metric.of_output(number), strict=True):
                rows = sensitivities.flatten(0, 1)
                left.addmm_(rows.T, rows, alpha=1 / len(rows))
        found = []
        for layer, left in zip(metric.layers, lefts, strict=True):
            rows = layer.patches().flatten(0, 1)
            place = Place(layer.weight, layer.shape, layer.bias)
            found.append(Factors(place, _root(left, fraction), _root(rows.T @ rows / metric.num_inputs, fraction)))
        return cls(tuple(found))

    def squared_length(self, displacement: Tensor) -> Tensor:
        """`v^T g v` for v [P]: to second order, the squared functional distance that v makes."""
        return torch.stack([layer.squared(displacement) for layer in self.layers]).sum()

    @property
    def num_weights(self) -> int:
        """P, of the network: every weight lies in one of the layers."""
        places = [layer.place for layer in self.layers]
        return sum(place.size + (0 if place.bias is None else place.num_outputs) for place in places)

    @property
    def num_bytes(self) -> int:
        return sum(layer.left.nbytes + layer.right.nbytes for layer in self.layers)

    def arrays(self) -> dict[str, Tensor]:
        """All that there is to keep, by names."""
        kept = {}
        for number, layer in enumerate(self.layers):
            bias = -1 if layer.place.bias is None else layer.place.bias
            kept[f"{number}.{_PLACE}"] = torch.tensor([layer.place.weight, bias, *layer.place.shape])
            kept[f"{number}.{_LEFT}"], kept[f"{number}.{_RIGHT}"] = layer.left, layer.right
        return kept

    @classmethod
    def from_arrays(cls, kept: Mapping[str, Tensor]) -> KroneckerMetric:
        """What `arrays` gave."""
        found = []
        for number in range(len(kept) // 3):
            weight, bias, *shape = kept[f"{number}.{_PLACE}"].tolist()
            place = Place(weight, tuple(shape), None if bias < 0 else bias)
            found.append(Factors(place, kept[f"{number}.{_LEFT}"], kept[f"{number}.{_RIGHT}"]))
        return cls(tuple(found))


def _root(matrix: Tensor, fraction: float) -> Tensor:
    """[k, n], the fewest rows whose `root^T root` has the share of the trace of the matrix [n, n]."""
    values, vectors = torch.linalg.eigh(matrix.double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    before = values.cumsum(0) - values
    kept = (before < fraction * values.sum()) & (values > 0)
    return (values[kept].sqrt() * vectors[:, kept]).T.to(matrix.dtype).contiguous()
