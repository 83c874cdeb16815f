"""Output geometries: embeddings of outputs in which Euclidean distance measures a change of the function."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import NetworkError, UsageError
from fipray.networks.arrays import Embedded
from fipray.networks.embedding import ChecksOutputs, OutputGeometry
from fipray.registry import spec


def class_logits(outputs: Tensor, dim: int = 1) -> Tensor:
    """Logits of all classes: a single logit z becomes the two logits `(0, z)`, others stay as they are.

    Softmax of `(0, z)` is `(sigmoid(-z), sigmoid(z))`, so z is the logit of class 1.

    Args:
        outputs: logits with the classes in dimension `dim`.
        dim: dimension of the classes.

    Returns:
        Logits with at least two classes in `dim`.
    """
    return torch.cat([torch.zeros_like(outputs), outputs], dim) if outputs.shape[dim] == 1 else outputs


def num_classes(outputs: Tensor) -> int:
    """Count the classes that a classifier's outputs distinguish: C, or 2 for a single logit.

    Args:
        outputs: logits [N, C, ...].

    Returns:
        The number of classes, at least 2.
    """
    return max(2, outputs.shape[1])


@spec("fisher_rao")
@checked
@dataclass(frozen=True)
class FisherRao:
    """Classification: `s = 2 sqrt(softmax(outputs))`, for logits or log-probabilities.

    A single output z is the logit of a two-class classifier, `s = 2 sqrt((sigmoid(-z), sigmoid(z)))`. The class
    probabilities become points of a sphere of radius 2, on which arc length is the Fisher-Rao distance; the metric that
    is pulled back to the weights is the Fisher information (Amari 1998; Raghavan & Thomson 2022).

    Args:
        dim: dimension of the classes; None for 1. Use -1 for the outputs [N, T, C] of language models and token
            classifiers. Required for outputs of three dimensions, where both are usual.

    Raises:
        UsageError: for dimension 0, which is the batch.
    """

    dim: int | None = None

    def __post_init__(self) -> None:
        if self.dim == 0:
            raise UsageError(
                "dimension 0 of the outputs is the batch: give the dimension of the classes, such as dim=1"
            )

    def embed(self, outputs: Tensor) -> Tensor:
        # sqrt(p) as exp(log(p) / 2): where p rounds to 0, the gradient of its square root is infinite.
        return 2 * (0.5 * torch.log_softmax(class_logits(self.arranged(outputs)), dim=1)).exp().flatten(1)

    def arranged(self, outputs: Tensor) -> Tensor:
        """Move the classes to dimension 1.

        Args:
            outputs: outputs with the classes in `dim`.

        Returns:
            The same values, a view.
        """
        return outputs if self.dim in (None, 1) else outputs.movedim(self.dim, 1)

    def check(self, outputs: Tensor) -> None:
        # The outputs are those at several weights: what holds for all of them holds by construction of the network.
        if outputs.ndim == 3 and self.dim is None:
            raise NetworkError(
                f"the outputs are [N, {outputs.shape[1]}, {outputs.shape[2]}], and classes may be in either dimension: "
                "choose geometry=FisherRao(dim=-1), as for language models and token classifiers, or FisherRao(dim=1), "
                "as for sequences of class maps"
            )
        if self.dim is not None and not -outputs.ndim < self.dim < outputs.ndim:
            raise NetworkError(f"the outputs have {outputs.ndim} dimensions, so none of them is dim={self.dim}")
        outputs = self.arranged(outputs)
        # All zeros fit both probabilities and logits: the last layer may be initialised to zero.
        if not bool(outputs.any()):
            return
        if bool(((outputs >= 0) & (outputs <= 1)).all()):
            raise NetworkError(
                "the outputs lie in 0..1 at all weights, so they are probabilities, and FisherRao takes logits or "
                "log-probabilities: remove the last softmax or sigmoid, or take logarithms (log_softmax)"
            )
        one_sided = bool((outputs >= 0).all()) or bool((outputs <= 0).all())
        if outputs.shape[1] == 1 and one_sided:
            raise NetworkError(
                "the single output never changes its sign, whatever the weights, so it is no logit of two classes: "
                "remove what bounds it (logsigmoid, softplus, relu, exp), or use the geometry Euclidean()"
            )


@spec("warm")
@checked
@dataclass(frozen=True)
class Warm:
    """Classification at a temperature T: `s = 2 T sqrt(softmax(outputs / T))`.

    For T = `math.inf` it is `(outputs - mean) / sqrt(C)`, to which differences of s converge as T grows. Where a
    network is confident, as on its training inputs, its probabilities say little of its function, and softened ones
    more (Hinton et al. 2015; Ba & Caruana 2014).

    Args:
        temperature: T, above 0; may be infinite.

    Raises:
        UsageError: for a temperature that is not above 0.
    """

    temperature: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"temperature is above 0; {self.temperature} was given")

    def embed(self, outputs: Tensor) -> Tensor:
        outputs = class_logits(outputs)
        # The limit up to a constant, which no difference of embeddings sees.
        if math.isinf(self.temperature):
            return ((outputs - outputs.mean(1, keepdim=True)) / outputs.shape[1] ** 0.5).flatten(1)
        # The constant part of s grows with T: in float32 differences of logits below about 1e-7 T are lost in rounding.
        return self.temperature * FisherRao().embed(outputs / self.temperature)

    def check(self, outputs: Tensor) -> None:
        FisherRao().check(outputs)


@spec("euclidean")
@checked
@dataclass(frozen=True)
class Euclidean:
    """Regression: `s = outputs / scale`.

    Args:
        scale: size of an error that matters, in units of the outputs, above 0.

    Raises:
        UsageError: for a scale that is not above 0.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UsageError(f"the scale of outputs is above 0; {self.scale} was given")

    def embed(self, outputs: Tensor) -> Tensor:
        return outputs.flatten(1) / self.scale


@spec("heads")
@checked
@dataclass(frozen=True)
class Heads:
    """Several heads concatenated along dimension 1, each with a geometry of its own.

    The squared distances of the heads add up. That of a head of classes is at most 8, against which the scale of a
    `Euclidean` head weighs its errors.

    Args:
        geometries: one geometry for each head.
        sizes: number of outputs of each head, at least 1.

    Raises:
        UsageError: for no heads, a size below 1, or another number of sizes than of geometries.
    """

    geometries: tuple[OutputGeometry, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.geometries) != len(self.sizes) or not self.sizes:
            raise UsageError(
                f"each head needs a geometry and a size; {len(self.geometries)} geometries and {len(self.sizes)} sizes "
                "were given"
            )
        if min(self.sizes) < 1:
            raise UsageError(f"a head has at least one output; the sizes {self.sizes} were given")

    def embed(self, outputs: Tensor) -> Tensor:
        return torch.cat([geometry.embed(head) for geometry, head in self._heads(outputs)], dim=1)

    def check(self, outputs: Tensor) -> None:
        for geometry, head in self._heads(outputs):
            if isinstance(geometry, ChecksOutputs):
                geometry.check(head)

    def _heads(self, outputs: Tensor) -> Iterator[tuple[OutputGeometry, Tensor]]:
        if outputs.shape[1] != sum(self.sizes):
            raise UsageError(
                f"the heads' sizes {self.sizes} add up to {sum(self.sizes)}, and there are {outputs.shape[1]} outputs"
            )
        return zip(self.geometries, outputs.split(self.sizes, dim=1), strict=True)


@checked
def functional_distance(embedded: Embedded, reference: Embedded) -> Tensor:
    """Functional distance of two networks, `D = sqrt(mean_n |s_n - s'_n|^2)`.

    For `FisherRao` it is a chord, in radians to second order.

    Args:
        embedded: embedded outputs s [N, C] of one network.
        reference: embedded outputs s' [N, C] of the other on the same inputs.

    Returns:
        A scalar, 0 for the same function on these inputs.
    """
    # The root has no derivative at 0: autograd gives NaN for equal embeddings.
    return (embedded - reference).square().sum(1).mean().sqrt()
