"""The base networks of the studies."""

from __future__ import annotations

from torch import nn


def small_cnn() -> nn.Module:
    """For 8 x 8 images in 10 classes: 9,946 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def lenet_300_100() -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998) for 28 x 28 images in 10 classes: 266,610 weights."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def lenet_5() -> nn.Module:
    """LeNet-5 as the pruning literature has it (20 and 50 filters, ReLU) for 28 x 28 images: 431,080 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )
