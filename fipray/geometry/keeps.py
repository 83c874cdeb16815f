"""Kept quantities: what of a network must stay, and at which value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import checked, described
from fipray.border.functions import function_named
from fipray.border.kinds import Seed
from fipray.errors import DataError, UsageError
from fipray.geometry.outputs import FisherRao
from fipray.networks.embedding import OutputGeometry
from fipray.networks.network import Network
from fipray.registry import spec

Call = Callable[[Tensor], Tensor]
"""A network at fixed weights: inputs [N, ...] to outputs [N, C]."""


@runtime_checkable
class Kept(Protocol):
    """A quantity that must stay along a path.

    The path's functional distance on it is `sqrt(mean_n |q_n(w) - t_n|^2)`, and its squares add up over all kept
    quantities, so each is given in units in which an error of 1 matters alike.

    Attributes:
        on: name of the set of inputs on which steps keep it; "" for the problem's anchors.
        held_out: name of the set on which it is judged; "" for the problem's held-out inputs.
        budget: largest distance at which a step is accepted, on this quantity alone; infinity for no limit of its own.
    """

    @property
    def on(self) -> str: ...

    @property
    def held_out(self) -> str: ...

    @property
    def budget(self) -> float: ...

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        """Q [N, C] at `weights` [P] on `inputs` [N, ...], twice differentiable by the weights."""
        ...

    def target(self, at_start: Tensor) -> Tensor:
        """The value t [N, C] at which it must stay, given its value [N, C] at the path's start."""
        ...


class _Stays:
    """A quantity that stays at its own value at the start."""

    def target(self, at_start: Tensor) -> Tensor:
        return at_start


class _Vanishes:
    """A quantity that must be zero, whatever it is at the start."""

    def target(self, at_start: Tensor) -> Tensor:
        return torch.zeros_like(at_start)


@spec("outputs")
@checked
@dataclass(frozen=True)
class Outputs(_Stays):
    """The network's outputs, embedded by an output geometry: `q = s(f(w, x))`, kept at their value at the start.

    Args:
        geometry: embedding of the outputs.
        on, held_out, budget: see `Kept`.
    """

    geometry: OutputGeometry = FisherRao()
    on: str = ""
    held_out: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        _check(self)

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        return self.geometry.embed(network(weights, inputs))


@spec("residual")
@checked
@dataclass(frozen=True)
class Residual(_Vanishes):
    """A residual that must vanish, such as the violation of a conservation law: `q = r(f, x) / scale`, target 0.

    Args:
        function: r as `module:function`. It is called with the network at fixed weights, a function of inputs
            [N, ...] to outputs [N, C], and with inputs, and returns a tensor [N, ...] computed in torch.
        scale: size of a residual that matters, in its own unit, above 0.
        on, held_out, budget: see `Kept`.
    """

    function: str
    scale: float = 1.0
    on: str = ""
    held_out: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        _check(self, self.scale)
        function_named(self.function, ("a network", "inputs [N, ...]"))

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        function = function_named(self.function, ("a network", "inputs [N, ...]"))
        found = function(partial(network, weights), inputs)
        return _rows(found, len(inputs), f"the function {self.function}") / self.scale


@spec("equivariant")
@checked
@dataclass(frozen=True)
class Equivariant(_Vanishes):
    """Equivariance under a Lie group, by its generators: `q = (df/dx X(x) - Y(f(x))) / scale` for each, target 0.

    With X(x) the direction in which a generator moves an input and Y(f) that in which it moves an output, q = 0 for all
    inputs says that f commutes with the group's identity component.

    Args:
        function: `module:function`, which is called with inputs [N, ...] and outputs [N, C] and returns, for each
            generator, a pair: X(x), like the inputs, and Y(f), like the outputs, or None where outputs are invariant.
        scale: size of a residual that matters, in units of the outputs, above 0.
        on, held_out, budget: see `Kept`.

    A pass costs two backward passes for each generator. Inputs must be floating-point numbers.
    """

    function: str
    scale: float = 1.0
    on: str = ""
    held_out: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        _check(self, self.scale)
        function_named(self.function, ("inputs [N, ...]", "outputs [N, C]"))

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        moves = function_named(self.function, ("inputs [N, ...]", "outputs [N, C]"))
        outputs, slopes = _slopes(partial(network, weights), inputs)
        found = []
        for of_inputs, of_outputs in _pairs(moves(inputs, outputs), self.function):
            slope = slopes(_like(of_inputs, inputs, f"X of {self.function}"))
            found.append(slope if of_outputs is None else slope - _like(of_outputs, outputs, f"Y of {self.function}"))
        return torch.cat([one.flatten(1) for one in found], 1) / self.scale


@spec("slopes")
@checked
@dataclass(frozen=True)
class Slopes(_Stays):
    """Slopes of the outputs along directions of input space: `q = df/dx u / scale`, kept at their value at the start.

    Args:
        scale: size of a change of slope that matters, in units of outputs per unit of inputs, above 0.
        directions: number of random directions u of length 1, the same for all inputs, at least 1.
        seed: of the directions.
        on, held_out, budget: see `Kept`.

    A pass costs one backward pass and one more for each direction. Inputs must be floating-point numbers.
    """

    scale: float = 1.0
    directions: int = 4
    seed: Seed = 0
    on: str = ""
    held_out: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        _check(self, self.scale)
        if self.directions < 1:
            raise UsageError(f"at least one direction is needed; directions={self.directions} was given")

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        _, slopes = _slopes(partial(network, weights), inputs)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.directions, *inputs.shape[1:], generator=generator, dtype=torch.float64)
        drawn /= torch.linalg.vector_norm(drawn.flatten(1), dim=1).view(-1, *[1] * (inputs.ndim - 1))
        found = [slopes(one.to(inputs).expand_as(inputs)) for one in drawn]
        return torch.cat([one.flatten(1) for one in found], 1) / self.scale


def values_of(kept: Kept, network: Network, weights: Tensor, inputs: Tensor, *, chunk: int = 1000) -> Tensor:
    """A kept quantity [N, C] at `weights` [P] on `inputs` [N, ...], `chunk` of them at a time, without its graph.

    Raises:
        UsageError: where it is no floating-point tensor [N, C].
    """
    name = f"{type(kept).__name__}.quantities()"
    with torch.enable_grad():  # slopes by inputs take gradients within
        found = [
            _rows(kept.quantities(network, weights.detach(), part), len(part), name).detach()
            for part in inputs.split(chunk)
        ]
    return torch.cat(found)


def _check(kept: Kept, scale: float = 1.0) -> None:
    if not 0 < scale < math.inf:
        raise UsageError(f"the scale of a kept quantity is above 0 and finite; {scale} was given")
    if not kept.budget > 0:
        raise UsageError(f"the budget of a kept quantity is a distance above 0; {kept.budget} was given")


def _slopes(call: Call, inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Outputs [N, C], and the function of a direction, like `inputs`, that gives their slopes [N, C] along it."""
    if not inputs.is_floating_point():
        raise DataError(f"slopes by the input need floating-point inputs; these are {inputs.dtype}")
    with torch.enable_grad():
        moving = inputs.detach().requires_grad_(True)
        outputs = call(moving)
        probe = torch.zeros_like(outputs, requires_grad=True)
        # J^T z is linear in z, so its derivative by z along u is J u
        (transposed,) = torch.autograd.grad(outputs, moving, probe, create_graph=True, materialize_grads=True)

    def along(direction: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(transposed, probe, direction, create_graph=True, materialize_grads=True)[0]

    return outputs, along


def _rows(found: object, num_inputs: int, name: str) -> Tensor:
    """A kept quantity as rows [N, C]."""
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.shape[:1] != (num_inputs,):
        raise UsageError(
            f"{name} returned {described(found)} for {num_inputs} inputs; expected a floating-point tensor [N, ...] "
            "with one row for each"
        )
    return found.reshape(num_inputs, -1)


def _pairs(found: object, function: str) -> Sequence[tuple[Tensor, Tensor | None]]:
    if (
        not isinstance(found, (tuple, list))
        or not found
        or not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in found)
    ):
        raise UsageError(
            f"{function} returned {described(found)}; expected one pair for each generator: how it moves inputs, and "
            "how it moves outputs, or None"
        )
    return found


def _like(found: object, wanted: Tensor, name: str) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        raise UsageError(f"{name} is {described(found)}; expected a tensor {list(wanted.shape)}")
    return found.to(wanted.dtype)
