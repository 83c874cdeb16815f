"""Labelled examples, from which a task is learned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import DataError
from fipray.geometry import num_classes
from fipray.networks import Network


@checked
@dataclass(frozen=True)
class Examples:
    """What a task is learned from: `inputs` [N, ...] and their classes, `labels` [N]."""

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
        """Raise DataError for inputs that the network does not take, and for classes that it does not have."""
        network.check(self.inputs)
        least, greatest = int(self.labels.min()), int(self.labels.max())
        num_outputs = num_classes(network.outputs(network.weights, self.inputs[:1]))
        if least < 0 or greatest >= num_outputs:
            raise DataError(
                f"the network has {num_outputs} classes, 0..{num_outputs - 1}; labels hold {least}..{greatest}"
            )

    @cached_property
    def classes(self) -> Tensor:
        """Those that there are, in order."""
        return self.labels.unique()

    def draw(self, size: int, seed: int) -> Examples:
        """`size` of them, with replacement; all of them where there are no more."""
        if size >= len(self):
            return self
        chosen = torch.randint(len(self), (size,), generator=torch.Generator().manual_seed(seed))
        chosen = chosen.to(self.inputs.device)
        return Examples(self.inputs[chosen], self.labels[chosen])
