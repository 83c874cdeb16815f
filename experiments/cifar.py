"""CIFAR-10 and a part of it, CIFAR-100, and a published ResNet-20, read from files."""

from __future__ import annotations

import os

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from experiments.files import given_file
from experiments.networks import resnet_20
from fipray.errors import UsageError


def cifar10_subset(root: str = "") -> dict[str, NDArray[np.generic]]:
    """8,068 training and the first 1,017 test images of CIFAR-10.

    Args:
        root: folder that holds `cifar10_subset.npz`; if empty, FIPRAY_DATA or the folder `shared/data` beside the
            checkout.

    Returns:
        `train_inputs` and `test_inputs` [N, 3, 32, 32] in 0..1, `train_labels` and `test_labels` [N].
    """
    with np.load(given_file("cifar10_subset.npz", root)) as held:
        scaled = {f"{part}_inputs": held[f"{part}_images"] / np.float32(255) for part in ("train", "test")}
        return {**scaled, "train_labels": held["train_labels"], "test_labels": held["test_labels"]}


def cifar10(root: str = "") -> dict[str, NDArray[np.generic]]:
    """CIFAR-10 from lossless mosaics of 25 rows of 40 images, in the form of `cifar10_subset`.

    Args:
        root: folder that holds `cifar10/labels.npz` and the mosaics beside it; if empty, FIPRAY_DATA or the folder
            `shared/data` beside the checkout.

    Returns:
        Arrays by name.
    """
    from PIL import Image

    file = given_file("cifar10/labels.npz", root)
    labels = np.load(file)
    found: dict[str, NDArray[np.generic]] = {}
    for part in ("train", "test"):
        mosaics = [np.asarray(Image.open(one).convert("RGB")) for one in sorted(file.parent.glob(f"{part}-*.webp"))]
        tiles = [one.reshape(25, 32, 40, 32, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32) for one in mosaics]
        found[f"{part}_inputs"] = np.concatenate(tiles) / np.float32(255)
        found[f"{part}_labels"] = labels[f"{part}_labels"].astype(np.int64)
    return found


def cifar100(root: str = "") -> dict[str, NDArray[np.generic]]:
    """CIFAR-100 through torchvision, in the form of `cifar10_subset`.

    Args:
        root: folder that holds `cifar-100-python`; if empty, FIPRAY_DATA or the folder `shared/data` beside the
            checkout.

    Returns:
        Arrays by name.

    Raises:
        UsageError: If the folder does not hold the data set.
    """
    from torchvision import datasets

    folder = root or os.environ.get("FIPRAY_DATA", "../shared/data")
    found: dict[str, NDArray[np.generic]] = {}
    for part in ("train", "test"):
        try:
            held = datasets.CIFAR100(folder, train=part == "train", download=False)
        except (OSError, RuntimeError) as error:
            raise UsageError(
                f"{folder} holds no whole cifar-100-python: give -p data_root=FOLDER with torchvision's CIFAR100 in it"
            ) from error
        found[f"{part}_inputs"] = np.ascontiguousarray(held.data.transpose(0, 3, 1, 2)) / np.float32(255)
        found[f"{part}_labels"] = np.asarray(held.targets, dtype=np.int64)
    return found


def published_resnet_20(root: str = "") -> nn.Module:
    """ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10, in evaluation mode.

    It classifies 932 of the 1,017 test images of `cifar10_subset` correctly.

    Args:
        root: folder that holds its weights.

    Returns:
        The module.
    """
    held = torch.load(given_file("resnet_cifar10/resnet20-12fca82f.th", root), map_location="cpu", weights_only=True)
    module = resnet_20()
    module.load_state_dict({name.removeprefix("module."): value for name, value in held["state_dict"].items()})
    return module.eval()
