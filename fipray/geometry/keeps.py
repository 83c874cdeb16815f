"""Kept quantities: functions of a network that must stay at given values along a path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import checked, described
from fipray.border.functions import function_named
from fipray.border.kinds import Seed
from fipray.errors import UsageError
from fipray.geometry.input_slopes import slopes_of
from fipray.geometry.outputs import FisherRao
from fipray.networks.embedding import OutputGeometry
from fipray.networks.network import Network
from fipray.registry import spec

# The kinds below repeat `on`, `held_out` and `budget`: inherited from one dataclass, these fields would come before the
# others, and the order of the fields is that of the positional arguments.


@runtime_checkable
class Kept(Protocol):
    """A quantity that must stay along a path.

    The functional distance on it is `sqrt(mean_n |q_n(w) - t_n|^2)`. Squared distances add up over all kept quantities,
    so each must be scaled so that an error of 1 matters equally.

    Attributes:
        on: name of the set of inputs on which steps keep it; "" for the problem's anchors.
        held_out: name of the set on which it is judged; "" for the problem's held-out inputs.
        budget: largest distance on this quantity alone at which a step is accepted; infinity for no limit of its own.
    """

    @property
    def on(self) -> str: ...

    @property
    def held_out(self) -> str: ...

    @property
    def budget(self) -> float: ...

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        """Compute the quantity.

        Args:
            network: the network as a function of flat weights.
            weights: weights [P] at which to compute it.
            inputs: inputs [N, ...].

        Returns:
            Floating-point values q [N, C], twice differentiable in `weights`.
        """
        ...

    def target(self, at_start: Tensor) -> Tensor:
        """Compute the value at which the quantity must stay.

        Args:
            at_start: values [N, C] at the start of the path.

        Returns:
            Targets t [N, C].
        """
        ...


class _Stays:
    """A quantity that must stay at its own value at the start."""

    def target(self, at_start: Tensor) -> Tensor:
        return at_start


class _Vanishes:
    """A quantity that must be zero, whatever its value at the start."""

    def target(self, at_start: Tensor) -> Tensor:
        return torch.zeros_like(at_start)


@spec("outputs")
@checked
@dataclass(frozen=True)
class Outputs(_Stays):
    """Outputs of the network, embedded by an output geometry: `q = s(f(w, x))`, kept at their value at the start.

    Args:
        geometry: embedding of the outputs.
        on: see `Kept`.
        held_out: see `Kept`.
        budget: see `Kept`; above 0.
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
        on: see `Kept`.
        held_out: see `Kept`.
        budget: see `Kept`; above 0.
    """

    function: str
    scale: float = 1.0
    on: str = ""
    held_out: str = ""
    budget: float = math.inf

    def __post_init__(self) -> None:
        _check(self, self.scale)
        # Looked up here so that a misspelt name fails at once, and not first in a worker.
        function_named(self.function, ("a network", "inputs [N, ...]"))

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        # Found by name at each call: the spec travels to workers as text.
        function = function_named(self.function, ("a network", "inputs [N, ...]"))
        residual = function(partial(network, weights), inputs)
        return _rows(residual, len(inputs), f"the function {self.function}") / self.scale


@spec("equivariant")
@checked
@dataclass(frozen=True)
class Equivariant(_Vanishes):
    """Equivariance under a Lie group, by its generators: `q = (df/dx X(x) - Y(f(x))) / scale` for each, target 0.

    X(x) is the direction in which a generator moves an input, and Y(f) that in which it moves an output; q = 0 for all
    inputs means that f commutes with the identity component of the group. A pass costs two backward passes for each
    generator. Inputs must be floating-point numbers.

    Args:
        function: `module:function`, which is called with inputs [N, ...] and outputs [N, C] and returns, for each
            generator, a pair: X(x), shaped as the inputs, and Y(f), shaped as the outputs, or None where outputs are
            invariant.
        scale: size of a residual that matters, in units of the outputs, above 0.
        on: see `Kept`.
        held_out: see `Kept`.
        budget: see `Kept`; above 0.
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
        generators = function_named(self.function, ("inputs [N, ...]", "outputs [N, C]"))
        outputs, slopes = slopes_of(partial(network, weights), inputs)
        residuals = []
        for of_inputs, of_outputs in _pairs(generators(inputs, outputs), self.function):
            slope = slopes(_like(of_inputs, inputs, f"X of {self.function}"))
            if of_outputs is not None:
                # Without Y the outputs are invariant, and the slope itself must vanish.
                slope = slope - _like(of_outputs, outputs, f"Y of {self.function}")
            residuals.append(slope.flatten(1))
        return torch.cat(residuals, 1) / self.scale


@spec("slopes")
@checked
@dataclass(frozen=True)
class Slopes(_Stays):
    """Slopes of the outputs along directions of input space: `q = df/dx u / scale`, kept at their value at the start.

    A pass costs one backward pass and one more for each direction. Inputs must be floating-point numbers.

    Args:
        scale: size of a change of slope that matters, in units of outputs per unit of inputs, above 0.
        directions: number of random directions u of length 1, the same for all inputs, at least 1.
        seed: seed of the directions.
        on: see `Kept`.
        held_out: see `Kept`.
        budget: see `Kept`; above 0.
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
            raise UsageError(f"directions is {self.directions}: at least one direction is needed")

    def quantities(self, network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
        _, slopes = slopes_of(partial(network, weights), inputs)
        # Drawn on the CPU and in float64, so that a seed means the same directions on every device and in every dtype.
        generator = torch.Generator().manual_seed(self.seed)
        directions = torch.randn(self.directions, *inputs.shape[1:], generator=generator, dtype=torch.float64)
        directions /= torch.linalg.vector_norm(directions.flatten(1), dim=1).view(-1, *[1] * (inputs.ndim - 1))
        found = [slopes(direction.to(inputs).expand_as(inputs)) for direction in directions]
        return torch.cat([slope.flatten(1) for slope in found], 1) / self.scale


def values_of(kept: Kept, network: Network, weights: Tensor, inputs: Tensor, *, chunk: int = 1000) -> Tensor:
    """Compute a kept quantity in chunks, without its graph.

    Args:
        kept: the quantity.
        network: the network as a function of flat weights.
        weights: weights [P].
        inputs: inputs [N, ...].
        chunk: inputs in one pass.

    Returns:
        Values q [N, C].

    Raises:
        UsageError: if the quantity is not a floating-point tensor with one row for each input.
    """
    name = f"{type(kept).__name__}.quantities()"
    with torch.enable_grad():  # quantities such as slopes along the inputs take gradients themselves
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


def _rows(found: object, num_inputs: int, name: str) -> Tensor:
    """Reshape what a function returned to rows [N, C]."""
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.shape[:1] != (num_inputs,):
        raise UsageError(
            f"{name} returned {described(found)} for {num_inputs} inputs; expected a floating-point tensor [N, ...] "
            "with one row for each input"
        )
    return found.reshape(num_inputs, -1)


def _pairs(found: object, function: str) -> Sequence[tuple[Tensor, Tensor | None]]:
    if (
        not isinstance(found, (tuple, list))
        or not found
        or not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in found)
    ):
        raise UsageError(
            f"{function} returned {described(found)}; expected one pair for each generator: the direction in which it "
            "moves inputs, and that in which it moves outputs, or None"
        )
    return found


def _like(found: object, wanted: Tensor, name: str) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        raise UsageError(f"{name} is {described(found)}; expected a tensor of shape {list(wanted.shape)}")
    return found.to(wanted.dtype)
