"""Vision Transformer of timm on Fashion-MNIST, for the recipe `prune`.

    fipray run prune -p module=benchmarks.recipes.vit:module -p data=benchmarks.recipes.vit:data --into results/vit
    fipray run prune ... -p pattern=2:4 --into results/vit-2-4

The network is trained on the anchors when it is first asked for, in about twelve minutes of one core, and kept in the
cache of `experiments.training`.
"""

from __future__ import annotations

import numpy as np
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from experiments.data import mnist
from experiments.training import Recipe, trained
from fipray import Data

NUM_HELD_OUT = 2000


def data() -> Data:
    """58,000 anchors, 2,000 held-out images with labels, and the test set."""
    images = mnist("fashion", "")
    return Data(
        anchors=images.train_inputs[:-NUM_HELD_OUT],
        held_out=images.train_inputs[-NUM_HELD_OUT:],
        test_inputs=images.test_inputs,
        test_labels=images.test_labels,
        anchor_labels=images.train_labels[:-NUM_HELD_OUT],
        held_out_labels=images.train_labels[-NUM_HELD_OUT:],
    )


def module() -> nn.Module:
    """Four blocks of width 64 over patches of 4 x 4 pixels, 205,066 weights, trained plainly for 2,500 steps."""
    given = data()
    assert given.anchor_labels is not None
    recipe = Recipe("timm-vit-64-4", given.digest, 2500)
    return trained(_untrained, np.asarray(given.anchors), given.anchor_labels, recipe)


def _untrained() -> nn.Module:
    return VisionTransformer(
        img_size=28, patch_size=4, in_chans=1, num_classes=10, embed_dim=64, depth=4, num_heads=4, mlp_ratio=4.0
    )
