"""Labelled examples of a task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import DataError
from fipray.geometry import num_classes
from fipray.networks import Deferred, Network, taken


@checked
@dataclass(frozen=True, eq=False)  # tensors have no single truth
class Examples:
    """Labelled examples from which a task is learned.

    Args:
        inputs: [N, ...], N at least 1.
        labels: their classes [N], int64.

    Raises:
        DataError: for labels of another type or shape.
    """

    inputs: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64 or self.labels.shape != self.inputs.shape[:1] or not len(self.inputs):
            raise DataError(
                f"examples are one or more inputs [N, ...] with int64 labels [N]; {tuple(self.inputs.shape)} and "
                f"{self.labels.dtype} {tuple(self.labels.shape)} were given"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def check(self, network: Network) -> None:
        """Check that the examples fit a network.

        Args:
            network: network that is to learn them.

        Raises:
            DataError: for inputs that it does not take, and for classes that it does not have.
        """
        network.check(self.inputs)
        least, greatest = int(self.labels.min()), int(self.labels.max())
        num_outputs = num_classes(network.outputs(network.weights, self.inputs[:1]))
        if least < 0 or greatest >= num_outputs:
            raise DataError(
                f"the network has {num_outputs} classes, 0..{num_outputs - 1}; labels hold {least}..{greatest}"
            )

    @cached_property
    def classes(self) -> Tensor:
        """Distinct classes of the labels, in ascending order."""
        return self.labels.unique()

    def draw(self, size: int, seed: int) -> Examples:
        """Draw examples at random, with replacement.

        Args:
            size: number of examples; all are taken, once each, where there are no more.
            seed: seed of the draw.

        Returns:
            The drawn examples.
        """
        if size >= len(self):
            return Examples(taken(self.inputs, slice(None), seed), self.labels)
        chosen = torch.randint(len(self), (size,), generator=torch.Generator().manual_seed(seed))
        if not isinstance(self.inputs, Deferred):
            chosen = chosen.to(self.inputs.device, non_blocking=True)
        return Examples(taken(self.inputs, chosen, seed), taken(self.labels, chosen))
