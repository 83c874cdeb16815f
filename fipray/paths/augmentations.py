"""More anchors from few: what is stored of earlier inputs, varied in ways that a network should not mind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from fipray.border import checked
from fipray.errors import DataError, UsageError
from fipray.registry import spec


@runtime_checkable
class Augmentation(Protocol):
    """A frozen dataclass, so that a path's settings can be written down."""

    def of(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Further inputs [M, ...] made from `inputs` [N, ...]."""
        ...


@spec("shifted")
@checked
@dataclass(frozen=True)
class Shifted:
    """`copies` of every image, each shifted by whole pixels, up to `pixels` to each side; zeros move in.

    Where few inputs stand for many, a function that is held on them alone moves between them; their neighbours hold it
    there too, and cost no memory but while a path is walked.

    image: the shape [C, H, W] of an image, where inputs [N, ...] are flattened; numbers that stand before the image in
        an input, such as the task's in those of `MultiHead`, stay as they are.
    """

    copies: int = 8
    pixels: int = 2
    image: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.copies >= 1 and self.pixels >= 1):
            raise UsageError(f"copies and pixels are at least 1; {self.copies} and {self.pixels} were given")

    def of(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        shape = self.image or tuple(inputs.shape[1:])
        size, numbers = math.prod(shape), inputs[0].numel()
        if len(shape) < 2 or size > numbers:
            raise DataError(
                f"inputs of shape {tuple(inputs.shape[1:])} are no images of shape {shape}: say Shifted(image=...)"
            )
        flat = inputs.flatten(1).repeat(self.copies, 1)
        before, images = flat.split([numbers - size, size], 1)
        height, width = shape[-2:]
        wide = functional.pad(images.reshape(len(flat), -1, height, width), (self.pixels,) * 4)
        down, right = (
            torch.randint(2 * self.pixels + 1, (len(flat), 1), generator=generator).to(inputs.device) for _ in range(2)
        )
        rows = down + torch.arange(height, device=inputs.device)
        columns = right + torch.arange(width, device=inputs.device)
        which = torch.arange(len(flat), device=inputs.device)[:, None, None]
        moved = wide.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        return torch.cat([before, moved.flatten(1)], 1).reshape(-1, *inputs.shape[1:])


@checked
def augmented(inputs: Tensor, augmentations: Sequence[Augmentation], seed: int = 0) -> Tensor:
    """The inputs [N, ...], and after them what each variation makes of them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([inputs, *(variation.of(inputs, generator) for variation in augmentations)])
