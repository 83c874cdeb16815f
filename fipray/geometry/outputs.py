"""Output geometries: embeddings in which straight distance between outputs means what we want it to mean."""

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
    """The logits of all classes, which lie in `dim`: a single logit z is that of class 1 of two, `(0, z)`, with which
    softmax gives `(sigmoid(-z), sigmoid(z))`. Other outputs as they are.
    """
    return torch.cat([torch.zeros_like(outputs), outputs], dim) if outputs.shape[dim] == 1 else outputs


def num_classes(outputs: Tensor) -> int:
    """How many classes outputs [N, C, ...] tell apart: C, but two by a single logit."""
    return max(2, outputs.shape[1])


@spec("fisher_rao")
@checked
@dataclass(frozen=True)
class FisherRao:
    """Classification: `s = 2 sqrt(softmax(outputs))`, classes in dimension 1; a single output is the logit of a
    two-class classifier, `s = 2 sqrt((sigmoid(-z), sigmoid(z)))`. Outputs are logits or log-probabilities.

    Args:
        dim: dimension of the classes, where it is not 1: -1 for the outputs [N, T, C] of language models and token
            classifiers. For outputs of three dimensions it has to be said, as both are usual.

    The class probabilities become points of a sphere of radius 2, on which arc length is the Fisher-Rao distance; the
    metric that is pulled back to the weights is the Fisher information (Amari 1998; Raghavan & Thomson 2022).
    """

    dim: int | None = None

    def __post_init__(self) -> None:
        if self.dim == 0:
            raise UsageError("dimension 0 of the outputs is that of the inputs: classes are in another, such as dim=1")

    def embed(self, outputs: Tensor) -> Tensor:
        return 2 * (0.5 * torch.log_softmax(class_logits(self.arranged(outputs)), dim=1)).exp().flatten(1)

    def arranged(self, outputs: Tensor) -> Tensor:
        """The outputs with classes in dimension 1."""
        return outputs if self.dim in (None, 1) else outputs.movedim(self.dim, 1)

    def check(self, outputs: Tensor) -> None:
        if outputs.ndim == 3 and self.dim is None:
            raise NetworkError(
                f"the outputs are [N, {outputs.shape[1]}, {outputs.shape[2]}], and classes may be in either dimension: "
                "say where, geometry=FisherRao(dim=-1) as for language models and token classifiers, or "
                "FisherRao(dim=1) as for sequences of class maps"
            )
        if self.dim is not None and not -outputs.ndim < self.dim < outputs.ndim:
            raise NetworkError(f"the outputs have {outputs.ndim} dimensions, so none of them is dim={self.dim}")
        outputs = self.arranged(outputs)
        if not bool(outputs.any()):
            return
        if bool(((outputs >= 0) & (outputs <= 1)).all()):
            raise NetworkError(
                "the outputs lie in 0..1 at whatever weights, so they are probabilities, and FisherRao takes logits or "
                "log-probabilities: leave out the last softmax or sigmoid, or take logarithms (log_softmax)"
            )
        one_sided = bool((outputs >= 0).all()) or bool((outputs <= 0).all())
        if outputs.shape[1] == 1 and one_sided:
            raise NetworkError(
                "the single output never changes its sign, whatever the weights, so it is no logit of two classes: "
                "leave out what bounds it (logsigmoid, softplus, relu, exp), or give the geometry Euclidean()"
            )


@spec("warm")
@checked
@dataclass(frozen=True)
class Warm:
    """Classification: `s = T 2 sqrt(softmax(outputs / T))`, T the temperature, above 0; for `math.inf` the outputs less
    their mean, over `sqrt(C)`, to which differences of s come for ever larger T.

    Where a network is sure of its classes, as on inputs that it was trained on, probabilities say little of its
    function, and warm ones more (Hinton et al. 2015; Ba & Caruana 2014).
    """

    temperature: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UsageError(f"temperature is above 0; {self.temperature} was given")

    def embed(self, outputs: Tensor) -> Tensor:
        outputs = class_logits(outputs)
        if math.isinf(self.temperature):
            return ((outputs - outputs.mean(1, keepdim=True)) / outputs.shape[1] ** 0.5).flatten(1)
        return self.temperature * FisherRao().embed(outputs / self.temperature)

    def check(self, outputs: Tensor) -> None:
        FisherRao().check(outputs)


@spec("euclidean")
@checked
@dataclass(frozen=True)
class Euclidean:
    """Regression: `s = outputs / scale`; `scale` > 0 is the size of an error that matters, in units of the outputs."""

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
    """Several heads, concatenated along dimension 1: the first `sizes[0]` outputs have the first geometry, and so on.

    The squares of the heads' distances add up; a `Euclidean` head's scale says what its errors weigh against those of a
    head of classes, whose squared distance is at most 8.
    """

    geometries: tuple[OutputGeometry, ...]
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.geometries) != len(self.sizes) or not self.sizes:
            raise UsageError(
                f"each head has a geometry and a size; {len(self.geometries)} geometries and {len(self.sizes)} sizes "
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
    """`D = sqrt(mean_n |s_n - s'_n|^2)` of two embeddings [N, C]: scalar, 0 for the same function on these inputs."""
    return (embedded - reference).square().sum(1).mean().sqrt()
