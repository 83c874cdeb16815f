"""Pruning of a super-resolution network: a regression, with Euclidean output geometry."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import fipray as fip
from experiments.pruning import levels_of
from experiments.training import Recipe, trained

PATCH = 24  # pixels on a side


def study(*, sparsities: str = "0.5,0.8,0.9", num_steps: int = 800, seed: int = 0) -> fip.Study:
    """One path through increasingly sparse networks that upscale photographs by two, in patches of 24 x 24 pixels.

    Data are the two grey photographs of scikit-learn: patches of one are the anchors, of the other the held-out
    inputs. There
    are no labels: `functional_distance_held_out` is the root mean squared distance of outputs with 576 pixels, in
    units of the
    pixels' range 0..1.

    Args:
        sparsities: text such as "0.5,0.9".
        num_steps: steps per sparsity.
        seed: seed of training and of the path.

    Returns:
        The study.
    """
    levels = levels_of(sparsities)
    small, sharp = patches(0)
    recipe = Recipe("srcnn", f"scikit-learn photograph 0, {len(small)} patches", num_steps=1500, seed=seed)
    other, _ = patches(1)
    return fip.Study(
        name="super-resolution",
        module=trained(srcnn, small, sharp, recipe, loss=functional.mse_loss),
        base_id=recipe.base_id,
        data=fip.Data(anchors=small, held_out=other[:400]),
        geometry=fip.Euclidean(),
        paths=(
            fip.PathSpec(
                name="sparse",
                objective=fip.objectives.Sparsify(levels[-1], through=levels[:-1]),
                stepper=fip.steppers.FirstOrder(),
                radius=fip.radii.Scheduled(0.03, warmup=0.05, cycles=(1.0,) * len(levels)),
                num_steps=num_steps * len(levels),
                batch_size=64,
                save_at=fip.SaveAt(len(levels)),
                seed=seed,
            ),
        ),
        parameters={"sparsities": sparsities, "num_steps": num_steps, "seed": seed},
    )


def srcnn() -> nn.Module:
    """Small SRCNN (Dong et al. 2014) that corrects an image upscaled by interpolation: 8,129 weights."""
    return _Srcnn()


class _Srcnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(32, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 1, 3, padding=1),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs + self.layers(inputs)).flatten(1)


def patches(photograph: int, stride: int = 16) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Patches of a photograph that was halved and upscaled again, and the original pixels.

    Args:
        photograph: number of the photograph, 0 or 1.
        stride: distance between patches, in pixels.

    Returns:
        Patches [N, 1, 24, 24] and originals [N, 576].
    """
    from sklearn.datasets import load_sample_images

    image = torch.from_numpy(load_sample_images().images[photograph].mean(2) / 255).float()[None, None]
    image = image[..., : image.shape[2] // 2 * 2, : image.shape[3] // 2 * 2]
    halved = functional.avg_pool2d(image, 2)
    blurred = functional.interpolate(halved, scale_factor=2, mode="bicubic", align_corners=False).clamp(0, 1)
    cut = [
        functional.unfold(each, PATCH, stride=stride)[0].T.reshape(-1, PATCH * PATCH).numpy()
        for each in (blurred, image)
    ]
    return cut[0].reshape(-1, 1, PATCH, PATCH).copy(), cut[1].copy()
