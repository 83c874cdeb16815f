"""Settings of the recipe `learn`."""

from __future__ import annotations

from dataclasses import dataclass

from fipray.border import checked


@checked
@dataclass(frozen=True)
class LearningChoices:
    """Settings that `learn` chooses; each can be given by name instead.

    Args:
        beta: weight of a new task's loss beside the squared distance of the known outputs, before it is divided by
            their number and by that of the tasks so far.
        rate: learning rate of the first steps; the radius follows from it.
        num_steps: number of steps for each task.
        batch_size: examples of the new task in the batch of a step.
        num_held: stored inputs in the batch of a step.
        shifted: number of shifted copies of each stored input, for images; 0 for none.
        batch_statistics: whether BatchNorm normalises by the batch while the paths walk, as in training.
    """

    beta: float = 60.0
    rate: float = 1e-3
    num_steps: int = 1000
    batch_size: int = 128
    num_held: int = 128
    shifted: int = 0
    batch_statistics: bool = False
