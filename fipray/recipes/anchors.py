"""Anchors that a recipe uses: a part of those that are given, and mirrored copies of images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fipray.study import Data
from fipray.study.referenced import Array, ReferencedArray

LEAST_AGREEMENT = 0.8
"""Agreement of the base network with itself on mirrored images above which they are anchors, too."""


def are_images(inputs: Array | Tensor) -> bool:
    """Check whether inputs look like images that could be mirrored.

    Args:
        inputs: [N, ...].

    Returns:
        True for floats [N, 1 or 3, H, W] with H and W at least 8.
    """
    is_float = inputs.is_floating_point() if isinstance(inputs, Tensor) else np.issubdtype(inputs.dtype, np.floating)
    return bool(is_float) and inputs.ndim == 4 and inputs.shape[1] in (1, 3) and min(inputs.shape[2:]) >= 8


@dataclass(frozen=True)
class AnchorChoice:
    """Choice of anchors, drawn at random without replacement.

    Args:
        count: number of anchors; 0 or more than there are takes all. With `mirrored`, images and their mirror images
            count together, so it may be up to twice as large.
        mirrored: whether mirror images are anchors, too.
        seed: seed of the draw.
    """

    count: int = 0
    mirrored: bool = False
    seed: int = 0

    def of(self, data: Data) -> Data:
        """Apply the choice.

        Args:
            data: given data.

        Returns:
            Data with the chosen anchors; the given data where all are taken as they are.
        """
        anchors = data.anchors
        pool = 2 * len(anchors) if self.mirrored else len(anchors)
        count = min(self.count or pool, pool)
        if count == pool and not self.mirrored:
            return data
        chosen = torch.randperm(pool, generator=torch.Generator().manual_seed(self.seed))[:count].numpy()
        places = chosen % len(anchors)
        turned = chosen >= len(anchors)
        labels = None if data.anchor_labels is None else data.anchor_labels[places]
        if isinstance(anchors, ReferencedArray):
            referenced = anchors.take(places, turned if self.mirrored else None)
            return replace(data, anchors=referenced, anchor_labels=labels)
        drawn = anchors[places]
        if self.mirrored:
            drawn[turned] = drawn[turned][..., ::-1]
        return replace(data, anchors=drawn, anchor_labels=labels)


ALL = AnchorChoice()
"""All anchors, as they are given."""
