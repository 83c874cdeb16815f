"""Small images and folders of them, for tests of sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pixels(num: int, height: int = 6, width: int = 5, seed: int = 0) -> np.ndarray:
    """Random uint8 images [N, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (num, height, width, 3), dtype=np.uint8)


def folder(path: Path, names: tuple[str, ...] = ("cat", "dog"), num: int = 6, **shape: int) -> np.ndarray:
    """Write a folder of PNG files for each class, and return the images [N, H, W, 3] in order."""
    images = pixels(num * len(names), **shape)
    for number, image in enumerate(images):
        place = path / names[number // num]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number:03}.png")
    return images
