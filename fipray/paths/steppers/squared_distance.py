"""Squared functional distance to the base network, as a differentiable function of outputs and of weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fipray.errors import UsageError
from fipray.geometry import FisherRao, Warm, class_logits
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem

_CLASSES_FIRST = FisherRao(dim=1)


class SquaredDistance:
    """`D^2 = mean_n |s_n(w) - s_n(w0)|^2` on a batch, s the embedded outputs and w0 the base weights.

    Args:
        temperature: above 0. Any value but 1 takes the distance in `fipray.geometry.Warm(temperature)` and needs
            classes.
        outputs: number of leading outputs on which the distance is taken; None takes all. For classes, the
            distance is between the probabilities given that the class is one of these.

    Raises:
        UsageError: for a temperature that is not above 0 or fewer than 1 output.
    """

    def __init__(self, temperature: float = 1.0, outputs: int | None = None) -> None:
        Warm(temperature)  # raises for a temperature out of range
        if outputs is not None and not outputs >= 1:
            raise UsageError(f"outputs must be None or at least 1 output; outputs={outputs} was given")
        self._temperature, self._outputs = temperature, outputs

    def check(self, problem: Problem) -> None:
        """Check that the distance is defined for the problem's geometry.

        Args:
            problem: where paths begin, with its output geometry.

        Raises:
            UsageError: for a temperature without classes, or for a single class, whose probability is always 1.
        """
        is_classes = isinstance(problem.geometry, FisherRao)
        if self._temperature != 1 and not is_classes:
            raise UsageError(
                f"temperature={self._temperature} is defined for classes only: set geometry=FisherRao(), or leave the "
                "temperature at 1"
            )
        if self._outputs == 1 and is_classes:
            raise UsageError(
                "outputs=1 leaves a single class, whose probability is always 1: give outputs of at least 2, or None"
            )

    def of_outputs(self, problem: Problem, outputs: Tensor, batch: Batch) -> Tensor:
        """Squared functional distance of the network that has these outputs from the base network.

        Args:
            problem: supplies the output geometry.
            outputs: [N, C], on the batch's inputs; differentiable.
            batch: inputs [N, ...] with the base network's embedded outputs.

        Returns:
            Scalar, at least 0. No pass through the network.
        """
        geometry, reference = problem.geometry, batch.reference
        if isinstance(geometry, FisherRao):
            # `arranged` moves the classes to dimension 1, so the geometry must not look for them in their old place
            geometry, outputs = _CLASSES_FIRST, class_logits(geometry.arranged(outputs))
        if self._outputs is not None:
            outputs, reference = outputs[:, : self._outputs], reference[:, : self._outputs]
            if isinstance(geometry, FisherRao):
                # 2 sqrt(p) has length 2; rescaling a part of it to length 2 conditions p on these classes
                reference = 2 * functional.normalize(reference, dim=1)
        if self._temperature == 1:
            difference = geometry.embed(outputs) - reference
        else:
            warm, base_logits = Warm(self._temperature), _log_probabilities(reference).view_as(outputs)
            difference = warm.embed(outputs) - warm.embed(base_logits)
        # the square, not the distance: the root has no gradient at 0, where every path begins
        return difference.square().sum(1).mean()

    def of_parts(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        """Compute the summed squared distances of the kept quantities other than the outputs on the anchors.

        Args:
            problem: supplies the network.
            weights: [P], differentiable.
            batch: holds the quantities with their inputs and targets.

        Returns:
            Scalar, 0 where nothing else is kept. Costs one evaluation of each quantity.
        """
        total = weights.new_zeros(())
        for part in batch.parts:
            difference = part.kept.quantities(problem.network, weights, part.inputs).flatten(1) - part.target
            total = total + difference.square().sum(1).mean()
        return total


def _log_probabilities(reference: Tensor) -> Tensor:
    """Log-probabilities of the base network from its embedded outputs `2 sqrt(p)`.

    They serve as logits: softmax does not change when a constant is added to all of them.
    """
    # the clamp keeps the logarithm of a probability that underflowed to 0 finite
    return 2 * (reference / 2).clamp(min=torch.finfo(reference.dtype).tiny).log()
