"""Settings of the recipe `prune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fipray.border import checked
from fipray.errors import UsageError


@checked
@dataclass(frozen=True)
class PruningChoices:
    """Settings that `prune` chooses; each can be given by name instead.

    Args:
        stepper: "first_order" or "natural".
        matches: what first-order steps match: "probabilities" of the classes (or values), or "logits".
        batch_statistics: whether BatchNorm normalises by the batch while the path walks, as in training.
        radius: largest step in units of |w0|.
        num_steps: number of steps.
        batch_size: anchors in the batch of a step.
        fallback: lower sparsity to which a second, shorter path leads, in case the first does not keep within the
            allowance; 0 for no such path.
        share: steps of that second path, as a fraction of those of the first, above 0.
        ramp: fraction of a path over which the sparsity rises.
        guard: functional distance on held-out inputs above which steps become shorter; 0 for no guard.
        guard_every: steps between two looks at it.
        num_anchors: number of anchors that are used.
        mirrored: whether half of the anchors are mirrored, for images.
        num_points: number of points of a path that are measured.
    """

    stepper: Literal["first_order", "natural"] = "first_order"
    matches: Literal["probabilities", "logits"] = "probabilities"
    batch_statistics: bool = False
    radius: float = 0.02
    num_steps: int = 1000
    batch_size: int = 128
    fallback: float = 0.0
    share: float = 0.15
    ramp: float = 0.6
    guard: float = 0.0
    guard_every: int = 20
    num_anchors: int = 0
    mirrored: bool = False
    num_points: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.fallback < 1:
            raise UsageError(f"fallback is a sparsity, 0..1, 1 excluded; {self.fallback} was given")
        if not 0 < self.share < math.inf:
            raise UsageError(f"share is a ratio of steps above 0, such as 0.15; {self.share} was given")
