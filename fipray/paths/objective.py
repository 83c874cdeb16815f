"""Secondary objectives: the protocol, optional capabilities as further protocols, and queries about them.

Implementations are in objectives/, calls with checked results in calls.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from fipray.networks import Network
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem

Projection = Callable[[Tensor], Tensor]
"""A linear projection of vectors [P]."""


@dataclass(frozen=True)
class Masked:
    """Projection that sets some entries to 0.

    Args:
        mask: [P], 0.0 for these and 1.0 for all others.
    """

    mask: Tensor

    def __call__(self, vector: Tensor) -> Tensor:
        return vector * self.mask


@runtime_checkable
class Objective(Protocol):
    """Secondary objective, minimised along a path while the function stays. Its decrease is the gain.

    Its gradient is taken through `value` by autograd; an objective that is not differentiable, or that has a better
    gradient, has a method for it (`GradientEstimate`). The outcome of a path compares the values at the start and at
    the end, unless the objective has an attribute `compared = False`.
    """

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """Evaluate the objective.

        Args:
            problem: start, kept quantities, other networks and tasks.
            weights: weights [P] at which it is evaluated; not to be written to.
            batch: inputs with the outputs of the start; random numbers are seeded by `batch.seed`.

        Returns:
            A scalar, differentiable with respect to the weights unless the objective is a `GradientEstimate`.
        """
        ...


# Optional capabilities. Each is a protocol of its own that is found by isinstance, so that an objective implements only
# the methods that it has, and a wrapper such as `WeightedSum` can ask each of its parts.


@runtime_checkable
class GradientEstimate(Protocol):
    """Objective that computes its own gradient, exact or estimated."""

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """Compute the gradient.

        Args:
            problem: start, kept quantities, other networks and tasks.
            weights: weights [P] at which it is taken, without a graph.
            batch: inputs; random numbers are seeded by `batch.seed`.

        Returns:
            The gradient l [P].
        """
        ...


@dataclass(frozen=True)
class Asked:
    """Inputs whose outputs an objective needs, and the objective as a function of these outputs.

    Args:
        inputs: [M, ...].
        value: function of the outputs [M, C] on them that returns the objective, a scalar.
    """

    inputs: Tensor
    value: Callable[[Tensor], Tensor]


@runtime_checkable
class OfOutputs(Protocol):
    """Objective that depends on the weights through outputs only.

    A stepper can then compute these outputs and its own in one pass through the network.
    """

    def asks(self, problem: Problem, weights: Tensor, batch: Batch) -> Asked:
        """Name the inputs whose outputs the objective needs.

        Args:
            problem: start, kept quantities, other networks and tasks.
            weights: weights [P]; inputs may depend on them (adversarial inputs do), but no gradient is taken through
                that.
            batch: inputs of the step.

        Returns:
            The inputs, and the objective as a function of the outputs on them.
        """
        ...


@runtime_checkable
class Restriction(Protocol):
    """Objective that also constrains the weights, more tightly as the path progresses."""

    def restrict(self, problem: Problem, weights: Tensor, progress: float, batch: Batch) -> Tensor:
        """Project weights on the allowed set.

        Args:
            problem: start, kept quantities, other networks and tasks.
            weights: weights [P].
            progress: fraction of the path that is completed, 0..1; at 1 the constraint holds in full.
            batch: inputs on which a projection that looks at the function is computed.

        Returns:
            The nearest allowed weights [P]: `weights` itself, the same tensor, where they are allowed.
        """
        ...

    def tangent(self, problem: Problem, weights: Tensor) -> Projection:
        """Projection on the directions along which weights stay allowed.

        Args:
            problem: start, kept quantities, other networks and tasks.
            weights: allowed weights [P].

        Returns:
            A projection of vectors [P].
        """
        ...


@runtime_checkable
class ChecksNetwork(Protocol):
    """Objective that does not support every network."""

    def check(self, network: Network) -> None:
        """Check that the objective supports a network.

        Args:
            network: network of the path.

        Raises:
            NetworkError: where it does not.
        """
        ...


@runtime_checkable
class Milestones(Protocol):
    """Objective that reaches intermediate sparsities on the way."""

    @property
    def milestones(self) -> tuple[tuple[float, float], ...]:
        """Pairs of a fraction of the path, 0..1, and the sparsity reached there."""
        ...


@runtime_checkable
class Learns(Protocol):
    """Objective that learns tasks."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the problem must have."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """Objective whose adversarial inputs begin at the last ones of the same anchors (`Batch.recalled`)."""

    @property
    def remembered_epsilon(self) -> float:
        """Bound on each coordinate of a perturbation; 0 where nothing is remembered."""
        ...


@runtime_checkable
class Sum(Protocol):
    """Objective that is a sum of others."""

    @property
    def summands(self) -> tuple[Objective, ...]:
        """Objectives with a coefficient other than 0."""
        ...


def is_compared(objective: Objective) -> bool:
    """Decide whether values of an objective at different points of a path can be compared.

    Args:
        objective: secondary objective.

    Returns:
        False for an objective with `compared = False`, and for a sum with such a summand.
    """
    if isinstance(objective, Sum):
        return all(map(is_compared, objective.summands))
    # An optional attribute rather than a part of the protocol: hardly any objective needs it.
    return bool(getattr(objective, "compared", True))


def only_descended(objective: Objective) -> Objective | None:
    """Find an objective that acts through its gradient only.

    Args:
        objective: secondary objective, or a sum.

    Returns:
        The objective or the first such summand; None where everything in it is a restriction too.
    """
    if isinstance(objective, Sum):
        return next((found for found in map(only_descended, objective.summands) if found is not None), None)
    return None if isinstance(objective, Restriction) else objective


def tasks_of(objective: Objective) -> tuple[str, ...]:
    """Names of the tasks that an objective learns.

    Args:
        objective: secondary objective.

    Returns:
        Names; none for an objective that learns no task.
    """
    return objective.tasks if isinstance(objective, Learns) else ()


def remembered_epsilon(objective: Objective) -> float:
    """Bound on the perturbations of anchors that an objective remembers.

    Args:
        objective: secondary objective, or a sum.

    Returns:
        The largest of its summands' bounds; 0 where nothing is remembered.
    """
    if isinstance(objective, Sum):
        return max(map(remembered_epsilon, objective.summands), default=0.0)
    return objective.remembered_epsilon if isinstance(objective, Remembers) else 0.0


def milestones(objective: Objective) -> tuple[tuple[float, float], ...]:
    """Intermediate sparsities of an objective.

    Args:
        objective: secondary objective.

    Returns:
        Pairs of a fraction of the path, 0..1, and the sparsity reached there; none for most objectives.
    """
    return objective.milestones if isinstance(objective, Milestones) else ()


def check_network(objective: Objective, network: Network) -> None:
    """Check that an objective supports a network.

    Args:
        objective: secondary objective.
        network: network of the path.

    Raises:
        NetworkError: where it does not.
    """
    if isinstance(objective, ChecksNetwork):
        objective.check(network)
