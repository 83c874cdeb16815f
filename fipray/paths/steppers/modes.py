"""Evaluation and training mode of a network during one step.

In evaluation mode the statistics of BatchNorm layers are frozen buffers. In training mode every BatchNorm normalises by
the batch and its running statistics follow; they are a stepper's state, and are folded into scale and shift so that
every point of the path remains a vector of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fipray.networks import Network, Statistics, folded, normalised, statistics_of, unfolded
from fipray.paths.state import State

_PREFIX = "statistics "  # of a buffer's name in a state; part of the format of saved paths


class EvaluationMode:
    """Network with frozen batch statistics.

    Args:
        network: the network that is run.
        weights: [P], where the step begins.
    """

    def __init__(self, network: Network, weights: Tensor) -> None:
        self.moving = weights.detach().requires_grad_(True)
        self._network = network
        # Leaves of their own: their gradients need not be joined to one vector, which takes a pass over memory.
        self._parameters = {name: one.requires_grad_(True) for name, one in network.named(weights.detach()).items()}

    def outputs(self, inputs: Tensor) -> Tensor:
        """Compute outputs at the weights, differentiable by them.

        Args:
            inputs: [N, ...].

        Returns:
            Outputs [N, C].
        """
        return self._network.evaluated(self._parameters, inputs)

    def slopes(self, loss: Tensor) -> list[Tensor]:
        """Gradient of a loss that was computed from `outputs` and from `moving`.

        Args:
            loss: scalar.

        Returns:
            Pieces of the gradient [P], in order: one for each parameter.
        """
        parameters = list(self._parameters.values())
        found: Sequence[Tensor | None] = torch.autograd.grad(loss, [*parameters, self.moving], allow_unused=True)
        pieces = [
            torch.zeros_like(one).flatten() if slope is None else slope.reshape(-1)
            for one, slope in zip(parameters, found, strict=False)
        ]
        if found[-1] is not None:
            torch._foreach_add_(pieces, found[-1].split([len(one) for one in pieces]))
        return pieces

    def pulled_back(self, gradient: Tensor) -> Tensor:
        """Gradient by `moving` from a gradient by the path's weights: the same, as both are the same weights.

        Args:
            gradient: [P], by the weights of the path.

        Returns:
            Gradient [P] by `moving`.
        """
        return gradient

    def folded(self, displacement: Tensor) -> Tensor:
        """Displacement of the path's weights from a displacement of `moving`: the same.

        Args:
            displacement: [P], of `moving`.

        Returns:
            Displacement [P] of the path's weights.
        """
        return displacement


class TrainingMode:
    """Network whose BatchNorm layers normalise by the batch, as in training.

    `moving` are the weights with the statistics taken out of scale and shift (`fipray.networks.unfolded`).

    Args:
        network: the network that is run.
        weights: [P], where the step begins, with the statistics `before` folded in.
        before: running statistics at the start of the step.
        after: a copy of them, which every call of `outputs` updates in place.
    """

    def __init__(self, network: Network, weights: Tensor, before: Statistics, after: Statistics) -> None:
        self.moving = unfolded(network, weights, before).detach().requires_grad_(True)
        self._network, self._weights, self._before, self._after = network, weights, before, after

    def outputs(self, inputs: Tensor) -> Tensor:
        """Compute outputs at `moving`, normalised by this batch, and update the running statistics in place.

        Args:
            inputs: [N, ...].

        Returns:
            Outputs [N, C], differentiable by `moving`.
        """
        return normalised(self._network, self.moving, self._after, inputs)

    def slopes(self, loss: Tensor) -> list[Tensor]:
        """Gradient of a loss that was computed from `outputs` and from `moving`.

        Args:
            loss: scalar.

        Returns:
            The gradient [P], in one piece.
        """
        return [torch.autograd.grad(loss, self.moving)[0]]

    def pulled_back(self, gradient: Tensor) -> Tensor:
        """Gradient by `moving` from a gradient by the path's weights, through the folding of the statistics.

        Args:
            gradient: [P], by the weights of the path, with statistics frozen.

        Returns:
            Gradient [P] by `moving`.
        """
        with torch.enable_grad():
            # by the statistics of the step's start: the gradient was taken at weights with these folded in
            weights = folded(self._network, self.moving, self._before)
            return torch.autograd.grad(weights, self.moving, gradient)[0]

    @torch.no_grad()
    def folded(self, displacement: Tensor) -> Tensor:
        """Displacement of the path's weights from a displacement of `moving`, with the updated statistics folded in.

        Args:
            displacement: [P], of `moving`.

        Returns:
            Displacement [P] of the path's weights. It may be longer than `displacement`: a change of statistics alone
            moves scale and shift too.
        """
        return folded(self._network, self.moving + displacement, self._after) - self._weights


def initial_statistics(network: Network) -> State:
    """State of a stepper that runs the network in training mode.

    Args:
        network: the base network.

    Returns:
        Copies of the network's running statistics, by names that `mode_of` recognises.

    Raises:
        NetworkError: where no BatchNorm has a scale and a shift that move.
    """
    return {_PREFIX + name: value for name, value in statistics_of(network).items()}


def mode_of(network: Network, weights: Tensor, state: State) -> EvaluationMode | TrainingMode:
    """Mode in which a stepper runs the network: training mode if its state holds statistics.

    Args:
        network: the network that is run.
        weights: [P], where the step begins.
        state: state at the start of the step; in training mode its statistics are replaced by those that each pass
            updates in place.

    Returns:
        The mode.
    """
    statistics = _statistics_in(state)
    if not statistics:
        return EvaluationMode(network, weights)
    after = {name: value.clone() for name, value in statistics.items()}
    state.update({_PREFIX + name: value for name, value in after.items()})
    return TrainingMode(network, weights, statistics, after)


def _statistics_in(state: State) -> Statistics:
    return {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}
