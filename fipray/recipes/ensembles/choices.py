"""Settings of the recipes `robust-ensemble` and `diverse-ensemble`."""

from __future__ import annotations

from dataclasses import dataclass

from fipray.border import checked
from fipray.errors import UsageError


@checked
@dataclass(frozen=True)
class Walk:
    """Settings that the members of an ensemble share.

    Args:
        members: number of members, each the end of a path.
        beta: weight of the objective beside the squared functional distance.
        radius: largest step in units of |w0|.
        num_steps: number of steps of each member.
        batch_size: anchors in the batch of a step.
        batch_statistics: whether BatchNorm normalises by the batch while a path walks, as in training.
        num_anchors: number of anchors that are used; 0 for all.
        num_examples: number of test inputs that are attacked.
    """

    members: int = 3
    beta: float = 20.0
    radius: float = 0.02
    num_steps: int = 1000
    batch_size: int = 128
    batch_statistics: bool = False
    num_anchors: int = 0
    num_examples: int = 1000

    def __post_init__(self) -> None:
        if self.members < 1:
            raise UsageError(f"an ensemble has at least one member; members={self.members} was given")


@checked
@dataclass(frozen=True)
class RobustChoices(Walk):
    """Settings that `robust_ensemble` chooses; each can be given by name instead.

    Args:
        members: number of members, each the end of a path.
        beta: weight of the objective beside the squared functional distance.
        radius: largest step in units of |w0|.
        num_steps: number of steps of each member.
        batch_size: anchors in the batch of a step.
        batch_statistics: whether BatchNorm normalises by the batch while a path walks, as in training.
        num_anchors: number of anchors that are used; 0 for all.
        num_examples: number of test inputs that are attacked.
        adversary_steps: ascent steps of the adversary within a step of the path.
        adversary_epsilon: epsilon of that adversary, in units of the recipe's epsilon.
        pixels: largest shift of the anchors of a step, for images; 0 for none.
        mirrored: whether the anchors of a step, which are images, are mirrored at random.
        averaging: decay of the moving average of a path's weights; 0 takes the weights themselves.
        remembers: whether that adversary begins where its last search on the same anchor ended.
        orthogonal: whether weight matrices move along orthogonal matrices (`FirstOrder(orthogonal=True)`).
        max_seconds: time after which a path ends early; 0 for no limit.
    """

    adversary_steps: int = 2
    adversary_epsilon: float = 1.1
    pixels: int = 0
    mirrored: bool = False
    averaging: float = 0.999
    remembers: bool = True
    orthogonal: bool = True
    max_seconds: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pixels < 0:
            raise UsageError(f"pixels is the largest shift of an image, 0 for none; pixels={self.pixels} was given")


@checked
@dataclass(frozen=True)
class DiverseChoices(Walk):
    """Settings that `diverse_ensemble` chooses; each can be given by name instead.

    Args:
        members: number of members, each the end of a path.
        beta: weight of the objective beside the squared functional distance.
        radius: largest step in units of |w0|.
        num_steps: number of steps of each member.
        batch_size: anchors in the batch of a step.
        batch_statistics: whether BatchNorm normalises by the batch while a path walks, as in training.
        num_anchors: number of anchors that are used; 0 for all.
        num_examples: number of test inputs that are attacked.
        rounds: rounds in which the members are traced together.
    """

    beta: float = 1.0
    num_examples: int = 500
    rounds: int = 3
