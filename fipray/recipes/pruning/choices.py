"""Settings of the recipe `prune`."""

from __future__ import annotations

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
        levels: sparsities on the way, each with a recovery of its own, such as "0.5,0.8"; empty for none.
        ramp: fraction of the way to each sparsity over which it rises.
        guard: functional distance on held-out inputs above which steps become shorter; 0 for no guard.
        guard_every: steps between two looks at it.
        num_anchors: number of anchors that are used.
        mirrored: whether half of the anchors are mirrored, for images.
        num_points: number of points of the path that are measured, beside those at the sparsities.
    """

    stepper: Literal["first_order", "natural"] = "first_order"
    matches: Literal["probabilities", "logits"] = "probabilities"
    batch_statistics: bool = False
    radius: float = 0.02
    num_steps: int = 1000
    batch_size: int = 128
    levels: str = ""
    ramp: float = 0.6
    guard: float = 0.0
    guard_every: int = 20
    num_anchors: int = 0
    mirrored: bool = False
    num_points: int = 1

    def __post_init__(self) -> None:
        _ = self.through  # raises for a text that holds no numbers

    @property
    def through(self) -> tuple[float, ...]:
        """Sparsities on the way."""
        try:
            return tuple(float(part) for part in self.levels.split(",") if part.strip())
        except ValueError as error:
            raise UsageError(
                f"levels are sparsities between commas, such as 0.5,0.8; {self.levels!r} was given"
            ) from error
