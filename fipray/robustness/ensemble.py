"""Networks judged together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.errors import UsageError
from fipray.robustness.margin import Classifier


@dataclass(frozen=True)
class Ensemble:
    """The classifier whose class probabilities are the average of its members': `log mean_m softmax(z_m)` [N, C].

    Deterministic and differentiable, so that a white-box attack sees all of it. Computed in logarithms: a probability
    too small for its dtype still has a gradient.

    Raises UsageError for no members.
    """

    members: Sequence[Classifier]

    def __post_init__(self) -> None:
        if not self.members:
            raise UsageError("an ensemble has no members: give one classifier or more")

    def __call__(self, inputs: Tensor) -> Tensor:
        logarithms = torch.stack([torch.log_softmax(member(inputs), 1) for member in self.members])
        return logarithms.logsumexp(0) - math.log(len(self.members))
