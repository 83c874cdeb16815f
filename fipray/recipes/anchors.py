"""Anchors that a recipe uses: a part of those that are given, and mirrored copies of images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fipray.study import Data

LEAST_AGREEMENT = 0.8
"""Agreement of the base network with itself on mirrored images above which they are anchors, too."""


def are_images(inputs: NDArray[np.generic] | Tensor) -> bool:
    """Check whether inputs look like images that could be mirrored.

    Args:
        inputs: [N, ...].

    Returns:
        True for floats [N, 1 or 3, H, W] with H and W at least 8.
    """
    is_float = (
        np.issubdtype(inputs.dtype, np.floating) if isinstance(inputs, np.ndarray) else inputs.is_floating_point()
    )
    return bool(is_float) and inputs.ndim == 4 and inputs.shape[1] in (1, 3) and min(inputs.shape[2:]) >= 8


def chosen_anchors(data: Data, count: int, mirrored: bool, seed: int) -> NDArray[np.generic]:
    """Draw anchors without replacement, and mirror every other one.

    Args:
        data: given data.
        count: number of anchors; 0 or more than there are takes all. With `mirrored`, images and their mirror images
            count together, so it may be up to twice as large.
        mirrored: whether mirror images are anchors.
        seed: seed of the draw.

    Returns:
        Anchors; the given array where nothing is changed.
    """
    anchors = data.anchors
    pool = 2 * len(anchors) if mirrored else len(anchors)
    count = min(count or pool, pool)
    if count == pool and not mirrored:
        return anchors
    chosen = torch.randperm(pool, generator=torch.Generator().manual_seed(seed))[:count].numpy()
    drawn = anchors[chosen % len(anchors)]
    if mirrored:
        turned = chosen >= len(anchors)
        drawn[turned] = drawn[turned][..., ::-1]
    return drawn
