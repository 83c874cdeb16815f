"""A part of CIFAR-10, and a ResNet-20 that others trained on all of it. Both are files, and are only read."""

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
    """`train_inputs` and `test_inputs` [N, 3, 32, 32] in 0..1, `train_labels` and `test_labels` [N].

    8,068 training and 1,017 test images: a figure on the latter is one on the first 1,017 test images of CIFAR-10.
    """
    with np.load(given_file("cifar10_subset.npz", root)) as held:
        scaled = {f"{part}_inputs": held[f"{part}_images"] / np.float32(255) for part in ("train", "test")}
        return {**scaled, "train_labels": held["train_labels"], "test_labels": held["test_labels"]}


def cifar100(root: str = "") -> dict[str, NDArray[np.generic]]:
    """The same of the whole of CIFAR-100, through torchvision, from the folder `cifar-100-python` in `root` or, where
    that is empty, in what FIPRAY_DATA names.
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
    """The ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10, in evaluation mode.

    It classifies 932 of the subset's 1,017 test images rightly.
    """
    held = torch.load(given_file("resnet_cifar10/resnet20-12fca82f.th", root), map_location="cpu", weights_only=True)
    module = resnet_20()
    module.load_state_dict({name.removeprefix("module."): value for name, value in held["state_dict"].items()})
    return module.eval()
