"""Learners that turn gradients, so that a step leaves alone what earlier tasks need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.baselines.optimizers import Momentum
from benchmarks.baselines.series.task import (
    Batches,
    Course,
    InSequence,
    Task,
    View,
    flat,
    gradients,
    log_probabilities,
)
from benchmarks.baselines.training import check_fraction, check_positive
from fipray.errors import UsageError


@dataclass(frozen=True)
class OGD(InSequence):
    """Orthogonal gradient descent (Farajtabar et al. 2020, variant OGD-GTL).

    Descent along `g - B^T B g`, where B [K, P] is an orthonormal basis of gradients of true labels' outputs at stored
    examples.

    num_stored: examples of each task whose gradients are kept.
    """

    rate: float = 1e-2
    num_stored: int = 200

    def __post_init__(self) -> None:
        check_positive(rate=self.rate, num_stored=self.num_stored)

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Orthogonal(module, generator, self)


@dataclass(eq=False)
class _Orthogonal:
    module: nn.Module
    generator: torch.Generator
    learner: OGD
    bases: list[Tensor] = field(default_factory=list)
    """Of one task each [k, P], orthogonal to each other."""

    def train(self, task: Task, batches: Batches) -> None:
        parameters = list(self.module.parameters())
        sizes = [weights.numel() for weights in parameters]

        def turned(slopes: list[Tensor]) -> list[Tensor]:
            parts = outside(flat(slopes), self.bases).split(sizes)
            return [part.view_as(weights) for part, weights in zip(parts, parameters, strict=True)]

        _descend(self.module, task, batches, turned, self.learner.rate, known=bool(self.bases))

    def consolidate(self, task: Task) -> None:
        inputs, labels = task.some(self.learner.num_stored, self.generator)
        rows = [
            flat(gradients(task.seen_by(self.module(one))[0, label], self.module))
            for one, label in zip(inputs.split(1), labels.tolist(), strict=True)
        ]
        self.bases.append(spanned(torch.stack(rows), self.bases))

    def kept(self) -> Iterable[Tensor]:
        return self.bases


def outside(vectors: Tensor, bases: Iterable[Tensor]) -> Tensor:
    """Project vectors [..., P] on the orthogonal complement of all bases, each with orthonormal rows [k, P]."""
    for basis in bases:
        vectors = vectors - (vectors @ basis.T) @ basis
    return vectors


def spanned(rows: Tensor, bases: Iterable[Tensor] = ()) -> Tensor:
    """Return an orthonormal basis [k, P] of the span of rows [m, P] outside the given bases, up to rounding."""
    left = outside(rows, bases).double()
    squares, vectors = torch.linalg.eigh(left @ left.T)
    new = squares > torch.finfo(rows.dtype).eps * rows.square().sum()
    return ((vectors[:, new] / squares[new].sqrt()).T @ left).to(rows.dtype)


@dataclass(frozen=True)
class GPM(InSequence):
    """Gradient projection memory (Saha, Garg & Roy 2021, equations 5 to 9).

    Descent on each layer's weights W [out, in] along `G - G M M^T`, where M [in, k] is an orthonormal basis of the
    layer's inputs
    in earlier tasks. For convolutions an input is a patch; if there are biases, it ends with a 1, so that they are
    kept, too.

    Of each task so many singular vectors come to M that it holds the share `threshold` of the squared norm of inputs.
    Layers are Linear and Conv2d; other parameters learn in the first task alone. Where tasks have heads, the last layer
    is not held.

    num_examples: of each task, whose inputs are looked at. num_patches: of them, in a convolution.
    """

    rate: float = 0.1
    threshold: float = 0.95
    num_examples: int = 256
    num_patches: int = 4096

    def __post_init__(self) -> None:
        check_positive(rate=self.rate, num_examples=self.num_examples, num_patches=self.num_patches)
        check_positive(threshold=self.threshold)
        if self.threshold > 1:
            raise UsageError(f"threshold is {self.threshold}: give a share of at most 1")

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Projecting(module, generator, self, layers_of(module))


@dataclass(eq=False)
class _Projecting:
    module: nn.Module
    generator: torch.Generator
    learner: GPM
    layers: Sequence[Layer]
    bases: dict[Layer, Tensor] = field(default_factory=dict)
    known: bool = False

    def train(self, task: Task, batches: Batches) -> None:
        def turned(slopes: list[Tensor]) -> list[Tensor]:
            if not self.known:
                return slopes
            return by_layer(self.module, self.layers, slopes, self._projected)

        _descend(self.module, task, batches, turned, self.learner.rate, self.known)

    def _projected(self, layer: Layer, slope: Tensor) -> Tensor:
        basis = self.bases.get(layer)
        return slope if basis is None else slope - (slope @ basis) @ basis.T

    @torch.no_grad()
    def consolidate(self, task: Task) -> None:
        inputs, _ = task.some(self.learner.num_examples, self.generator)
        with watched(self.layers) as seen:
            self.module(inputs)
        in_order = list(seen)
        for layer in in_order[:-1] if task.heads else in_order:
            rows = torch.cat([layer.rows(one) for one, _ in seen[layer]])
            rows = rows[torch.randperm(len(rows), generator=self.generator)[: self.learner.num_patches]]
            self.bases[layer] = extended(self.bases.get(layer), rows, self.learner.threshold)
        self.known = True

    def kept(self) -> Iterable[Tensor]:
        return self.bases.values()


def extended(basis: Tensor | None, rows: Tensor, threshold: float) -> Tensor:
    """Extend a basis by the fewest leading singular vectors that reach a fraction of the rows' squared norm.

    The result [in, k], k <= in, holds the fraction `threshold` of the squared norm of rows [m, in] (equation 9).
    """
    basis = rows.new_zeros(rows.shape[1], 0) if basis is None else basis
    left = rows - (rows @ basis) @ basis.T
    covariance = (left.T @ left).double()
    squares, vectors = torch.linalg.eigh(covariance)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    total = rows.double().square().sum()
    held = total - squares.sum() + squares.cumsum(0) - squares  # before each vector
    rounding = total * max(rows.shape) * torch.finfo(rows.dtype).eps
    more = vectors[:, (held < threshold * total) & (squares > rounding)].to(rows.dtype)
    joint, _ = torch.linalg.qr(torch.cat([basis, more], 1)) if more.shape[1] else (basis, None)
    return joint


@dataclass(frozen=True)
class NCL(InSequence):
    """Natural continual learning (Kao et al. 2021, equation 10 and algorithm 1).

    Descent with momentum along `prior P^-1 (g + P (w - a))`, where P is the precision and a the mean of the weights
    after earlier
    tasks, and g the gradient of the new task's mean loss.

    Of each layer P is a Kronecker product of [out, out] and [in, in]: at first `prior` times one; then the product
    nearest to the sum of itself and of the Fisher matrix [K-FAC; Martens & Grosse 2015; Grosse & Martens 2016] of each
    task, a mean over its examples. Layers are Linear and Conv2d; other parameters learn in the first task alone.

    num_examples: of each task, for its Fisher matrix; labels are the model's own, all of them.
    """

    rate: float = 1e-2
    momentum: float = 0.9
    prior: float = 1e-5
    num_examples: int = 1000

    def __post_init__(self) -> None:
        check_positive(rate=self.rate, prior=self.prior, num_examples=self.num_examples)
        check_fraction(momentum=self.momentum)

    def begin(self, module: nn.Module, generator: torch.Generator) -> Course:
        return _Natural(module, generator, self, layers_of(module))


@dataclass(eq=False)
class _Natural:
    module: nn.Module
    generator: torch.Generator
    learner: NCL
    layers: Sequence[Layer]
    precisions: dict[Layer, Kronecker] = field(default_factory=dict)
    means: list[Tensor] = field(default_factory=list)

    def train(self, task: Task, batches: Batches) -> None:
        weights: list[Tensor] = list(self.module.parameters())
        inverses = {layer: precision.inverse() for layer, precision in self.precisions.items()}

        @torch.no_grad()
        def turned(slopes: list[Tensor]) -> list[Tensor]:
            if not inverses:
                return slopes
            turned = by_layer(self.module, [*inverses], slopes, lambda layer, slope: inverses[layer] @ slope)
            back = torch._foreach_sub(weights, self.means)
            return list(torch._foreach_mul(torch._foreach_add(turned, back), self.learner.prior))

        _descend(self.module, task, batches, turned, self.learner.rate, bool(self.precisions), self.learner.momentum)

    def consolidate(self, task: Task) -> None:
        inputs, _ = task.some(self.learner.num_examples, self.generator)
        for layer, fisher in kronecker_fisher(self.module, self.layers, task.seen_by, inputs).items():
            before = self.precisions.get(layer) or Kronecker.one(fisher, self.learner.prior)
            self.precisions[layer] = before.plus(fisher)
        self.means = [weights.detach().clone() for weights in self.module.parameters()]

    def kept(self) -> Iterable[Tensor]:
        for precision in self.precisions.values():
            yield from (precision.left, precision.right)
        yield from self.means


@dataclass(frozen=True, eq=False)
class Kronecker:
    """Kronecker product that acts on matrices V [out, in] as `left V right`.

    left [out, out] and right [in, in] are symmetric.
    """

    left: Tensor
    right: Tensor

    @classmethod
    def one(cls, like: Kronecker, scale: float) -> Kronecker:
        """`scale` times the identity, of the shape of another."""
        left, right = (torch.eye(len(one), dtype=one.dtype) * scale**0.5 for one in (like.left, like.right))
        return cls(left, right)

    def __matmul__(self, matrix: Tensor) -> Tensor:
        return self.left @ matrix @ self.right

    def inverse(self) -> Kronecker:
        left, right = (torch.linalg.inv(one.double()).to(one.dtype) for one in (self.left, self.right))
        return Kronecker(left, right)

    def plus(self, other: Kronecker, num_rounds: int = 10) -> Kronecker:
        """Return the Kronecker product nearest to a sum of two.

        Nearest in the Kullback-Leibler divergence of Gaussians with these precisions: `L = sum_i tr(R^-1 R_i) L_i /
        in`, and R likewise,
        in turn.
        """
        lefts = [self.left.double(), other.left.double()]
        rights = [self.right.double(), other.right.double()]
        right = rights[0]
        for _ in range(num_rounds):
            left = _weighted(lefts, right, rights)
            right = _weighted(rights, left, lefts)
        return Kronecker(left.to(self.left.dtype), right.to(self.right.dtype))


def _weighted(sides: list[Tensor], against: Tensor, others: list[Tensor]) -> Tensor:
    inverse = torch.linalg.inv(against)
    return sum((inverse * other).sum() / len(against) * side for side, other in zip(sides, others, strict=True))


def kronecker_fisher(
    module: nn.Module, layers: Sequence[Layer], seen_by: View, inputs: Tensor
) -> dict[Layer, Kronecker]:
    """Estimate `E[g g^T] x E[a a^T]` of each layer, with inputs a and output gradients g of log p(y | x), y ~ p.

    In convolutions the first factor is a sum over positions and the second a mean. One backward pass per class.
    """
    with watched(layers, differentiable=True) as seen:
        logs = log_probabilities(seen_by(module(inputs)))
    probes = [probe for uses in seen.values() for _, probe in uses]
    left = {layer: torch.zeros(layer.num_outputs, layer.num_outputs, dtype=inputs.dtype) for layer in seen}
    roots = (logs.detach() / 2).exp()
    for label in range(logs.shape[1]):
        passed = torch.autograd.grad(
            logs[:, label] @ roots[:, label], probes, retain_graph=True, materialize_grads=True
        )
        slopes = iter(passed)
        for layer, uses in seen.items():
            for _ in uses:
                rows = layer.places(next(slopes))
                left[layer] += rows.T @ rows / len(rows)
    right = {}
    for layer, uses in seen.items():
        rows = torch.cat([layer.rows(one) for one, _ in uses])
        right[layer] = rows.T @ rows / len(inputs)
    return {layer: Kronecker(left[layer], right[layer]) for layer in seen}


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose outputs are `W a`: W [out, in] its weights, with the biases as last column where it has them."""

    module: nn.Linear | nn.Conv2d

    @property
    def num_outputs(self) -> int:
        return len(self.module.weight)

    @property
    def parameters(self) -> list[Tensor]:
        return [self.module.weight] if self.module.bias is None else [self.module.weight, self.module.bias]

    def rows(self, inputs: Tensor) -> Tensor:
        """Return the input vectors a [m, in] of a batch, ending with a 1 if there are biases."""
        if isinstance(self.module, nn.Conv2d):
            size, dilation, padding = self.module.kernel_size, self.module.dilation, self.module.padding
            assert not isinstance(padding, str)
            inputs = functional.unfold(inputs, size, dilation, padding, self.module.stride).transpose(1, 2)
        rows = inputs.detach().reshape(-1, inputs.shape[-1])
        return rows if self.module.bias is None else functional.pad(rows, (0, 1), value=1.0)

    def places(self, outputs: Tensor) -> Tensor:
        """[m, out], a row for each vector of `rows`."""
        if isinstance(self.module, nn.Conv2d):
            outputs = outputs.flatten(2).transpose(1, 2)
        return outputs.reshape(-1, outputs.shape[-1])


def layers_of(module: nn.Module) -> list[Layer]:
    """All layers that have parameters; raises UsageError for a convolution that isn't a product with patches."""
    found = []
    for name, one in module.named_modules():
        if isinstance(one, nn.Conv2d) and (
            one.groups > 1 or isinstance(one.padding, str) or one.padding_mode != "zeros"
        ):
            raise UsageError(f"the convolution {name} has groups or another padding: give zeros, as numbers of pixels")
        if isinstance(one, nn.Linear | nn.Conv2d):
            found.append(Layer(one))
    return found


def by_layer(
    module: nn.Module, layers: Sequence[Layer], slopes: list[Tensor], change: Callable[[Layer, Tensor], Tensor]
) -> list[Tensor]:
    """Gradients of the module's parameters, those of each layer changed as a matrix [out, in] and all others zero."""
    given: dict[Tensor, Tensor] = dict(zip(module.parameters(), slopes, strict=True))
    changed: dict[Tensor, Tensor] = {}
    for layer in layers:
        columns = [given[one].reshape(layer.num_outputs, -1) for one in layer.parameters]
        parts = change(layer, torch.cat(columns, 1)).split([one.shape[1] for one in columns], 1)
        changed |= {one: part.reshape(one.shape) for one, part in zip(layer.parameters, parts, strict=True)}
    return [changed[one] if one in changed else torch.zeros_like(one) for one in module.parameters()]


@contextmanager
def watched(
    layers: Sequence[Layer], differentiable: bool = False
) -> Iterator[Mapping[Layer, list[tuple[Tensor, Tensor]]]]:
    """Record the inputs of layers in the order of use, and zeros added to their outputs.

    The gradients of the zeros are those of the outputs.
    """
    seen: dict[Layer, list[tuple[Tensor, Tensor]]] = {}

    def listen(layer: Layer) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def heard(_: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
            probe = torch.zeros_like(outputs, requires_grad=differentiable)
            seen.setdefault(layer, []).append((inputs[0], probe))
            return outputs + probe

        return heard

    handles = [layer.module.register_forward_hook(listen(layer)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _descend(
    module: nn.Module,
    task: Task,
    batches: Batches,
    turned: Callable[[list[Tensor]], list[Tensor]],
    rate: float,
    known: bool,
    momentum: float = 0.0,
) -> None:
    """Along turned gradients. Once tasks are `known`, statistics of BatchNorm stay as they are."""
    module.train(not known)
    optimizer = Momentum(module, momentum, weight_decay=0.0)
    for inputs, labels in batches:
        optimizer.step(turned(gradients(task.loss(module, inputs, labels), module)), {"rate": rate})
