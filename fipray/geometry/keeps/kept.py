"""Protocol of kept quantities, their targets, and their values in chunks."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fipray.border import described
from fipray.errors import UsageError
from fipray.networks.network import Network

# Kinds of kept quantities repeat `on`, `held_out` and `budget`: inherited from one dataclass, these fields would come
# before the others, and the order of the fields is that of the positional arguments.


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


class Stays:
    """A quantity that must stay at its own value at the start."""

    def target(self, at_start: Tensor) -> Tensor:
        return at_start


class Vanishes:
    """A quantity that must be zero, whatever its value at the start."""

    def target(self, at_start: Tensor) -> Tensor:
        return torch.zeros_like(at_start)


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
            rows_of(kept.quantities(network, weights.detach(), part), len(part), name).detach()
            for part in inputs.split(chunk)
        ]
    return torch.cat(found)


def check_kept(kept: Kept, scale: float = 1.0) -> None:
    """Check the fields that all kept quantities share.

    Args:
        kept: the quantity.
        scale: its scale.

    Raises:
        UsageError: for a scale or a budget that is not above 0, or an infinite scale.
    """
    if not 0 < scale < math.inf:
        raise UsageError(f"the scale of a kept quantity is above 0 and finite; {scale} was given")
    if not kept.budget > 0:
        raise UsageError(f"the budget of a kept quantity is a distance above 0; {kept.budget} was given")


def rows_of(found: object, num_inputs: int, name: str) -> Tensor:
    """Reshape what a function returned to rows.

    Args:
        found: the returned value.
        num_inputs: number of inputs N.
        name: name of the function, for messages.

    Returns:
        Values [N, C].

    Raises:
        UsageError: if it is not a floating-point tensor with one row for each input.
    """
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.shape[:1] != (num_inputs,):
        raise UsageError(
            f"{name} returned {described(found)} for {num_inputs} inputs; expected a floating-point tensor [N, ...] "
            "with one row for each input"
        )
    return found.reshape(num_inputs, -1)
