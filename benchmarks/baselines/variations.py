"""Images shifted and mirrored at random, drawn anew for every batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fipray.errors import UsageError

Vary = Callable[[Tensor, torch.Generator], Tensor]
"""inputs [N, ...], source of all draws -> inputs [N, ...] of the same labels"""


@dataclass(frozen=True)
class Varied:
    """Images shifted by up to `reach` pixels each way, and half of them mirrored if `mirrors`."""

    reach: int = 1
    mirrors: bool = False

    def __post_init__(self) -> None:
        if self.reach < 1:
            raise UsageError(f"reach is {self.reach}: give at least one pixel")

    @classmethod
    def usual(cls, inputs: Tensor) -> Varied:
        """Take the field's usual variation of images [N, C, H, W].

        Colour images are mirrored and shifted by up to 4 pixels, images of one channel (digits, clothes) shifted by 1.
        """
        return cls(4, mirrors=True) if inputs.shape[1] == 3 else cls(1)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return shifted(inputs, self.reach, generator, mirrors=self.mirrors)


def shifted(inputs: Tensor, reach: int, generator: torch.Generator, *, mirrors: bool = True) -> Tensor:
    """Shift images [N, C, H, W] by up to `reach` pixels, padded with zeros, and mirror every second one.

    Images are unchanged if `reach` is 0, and never mirrored without `mirrors`.
    """
    if not reach:
        return inputs
    num, _, height, width = inputs.shape
    down, right = torch.randint(2 * reach + 1, (2, num), generator=generator)
    windows = functional.pad(inputs, (reach,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    moved = windows[torch.arange(num), :, down, right]
    if not mirrors:
        return moved
    mirrored = torch.rand(num, generator=generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), moved.flip(3), moved)
