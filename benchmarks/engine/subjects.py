"""The networks and inputs that are measured."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from experiments.cifar import cifar10_subset, published_resnet_20
from experiments.networks import lenet_300_100
from fipray.errors import UsageError


@dataclass(frozen=True)
class Subject:
    """A network and inputs [N, ...] in 0..1 that it was trained on."""

    name: str
    module: nn.Module
    inputs: Tensor


def lenet(root: str = "") -> Subject:
    """LeNet-300-100 trained on MNIST as in experiments.mnist, from the same cache.

    Where what trains and keeps it is not installed, its weights are random: that changes no duration.
    """
    try:
        from experiments.data import mnist
        from experiments.training import Recipe, trained

        everything = mnist("mnist", root)
        arrays = everything.for_paths(num_held_out=5000)
    except ModuleNotFoundError:
        return Subject("LeNet-300-100, untrained", lenet_300_100().eval(), _mnist_images(root))
    recipe = Recipe("lenet_300_100", arrays.digest, num_steps=3000)
    module = trained(lenet_300_100, everything.train_inputs[:-5000], everything.train_labels[:-5000], recipe)
    return Subject("LeNet-300-100", module, torch.from_numpy(everything.train_inputs[:-5000]))


def resnet(root: str = "") -> Subject:
    """Return the published ResNet-20 and a part of CIFAR-10's training images."""
    return Subject("ResNet-20", published_resnet_20(root), torch.from_numpy(cifar10_subset(root)["train_inputs"]))


SUBJECTS: dict[str, Callable[[str], Subject]] = {"lenet": lenet, "resnet": resnet}


def _mnist_images(root: str) -> Tensor:
    folder = Path(root or os.environ.get("FIPRAY_DATA", "") or "../shared/data")
    file = folder / "MNIST/raw/train-images-idx3-ubyte.gz"
    if not file.is_file():
        raise UsageError(f"{folder} holds no MNIST/raw: set FIPRAY_DATA to the folder that has MNIST/raw in it")
    pixels = np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16)
    return torch.from_numpy(pixels.reshape(-1, 1, 28, 28) / np.float32(255))
