"""Architectures of the base networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def small_cnn() -> nn.Module:
    """Small CNN for 8 x 8 images in 10 classes: 9,946 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def lenet_300_100(num_outputs: int = 10) -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998) for 28 x 28 images: 266,610 weights with 10 outputs.

    Args:
        num_outputs: number of outputs.

    Returns:
        The untrained module.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, num_outputs),
    )


def mlp_400(num_outputs: int) -> nn.Module:
    """MLP with two hidden layers of 400 units for 28 x 28 images (van de Ven & Tolias 2019).

    Args:
        num_outputs: number of outputs.

    Returns:
        The untrained module.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 400),
        nn.ReLU(),
        nn.Linear(400, 400),
        nn.ReLU(),
        nn.Linear(400, num_outputs),
    )


def paper_cnn(num_outputs: int = 20) -> nn.Module:
    """CNN with 32 and 64 filters and a hidden layer of 128 units for 28 x 28 images, similar to the paper's.

    Args:
        num_outputs: number of outputs.

    Returns:
        The untrained module.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Linear(128, num_outputs),
    )


def cifar_cnn(num_outputs: int = 10) -> nn.Module:
    """CNN with three convolutions (32, 64, 64) and a hidden layer of 128 units for 32 x 32 images.

    Args:
        num_outputs: number of outputs.

    Returns:
        The untrained module.
    """
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, num_outputs),
    )


def lenet_5() -> nn.Module:
    """LeNet-5 of the pruning literature (20 and 50 filters, ReLU) for 28 x 28 images: 431,080 weights."""
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


def mlpnet() -> nn.Module:
    """MLPNet (Singh & Alistarh 2020), 784-40-20-10 without biases, for 28 x 28 images in 10 classes: 32,360 weights."""
    return _MLPNet()


class _MLPNet(nn.Module):
    """MLPNet for inputs in 0..1, which it normalises."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 40, bias=False)
        self.fc2 = nn.Linear(40, 20, bias=False)
        self.fc3 = nn.Linear(20, 10, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = functional.relu(self.fc1((inputs.flatten(1) - 0.1307) / 0.3081))
        return self.fc3(functional.relu(self.fc2(seen)))


def resnet_20() -> nn.Module:
    """ResNet-20 (He et al. 2015, section 4.2) for 32 x 32 images in 10 classes: 269,722 weights."""
    return _ResNet20()


class _ResNet20(nn.Module):
    """ResNet-20 for inputs in 0..1, which it normalises."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(_Block(16, 32), _Block(32, 32), _Block(32, 32))
        self.layer3 = nn.Sequential(_Block(32, 64), _Block(64, 64), _Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        seen = functional.relu(self.bn1(self.conv1((inputs - self.mean) / self.deviation)))
        return self.linear(self.layer3(self.layer2(self.layer1(seen))).mean((2, 3)))


class _Block(nn.Module):
    """Residual block of two convolutions.

    Where the number of channels grows, the shortcut takes every second pixel and pads channels with zeros (option
    A).
    """

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.stride, self.more = num_outputs // num_inputs, num_outputs - num_inputs
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = inputs
        if self.more:
            half = self.more // 2
            shortcut = functional.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        inner = functional.relu(self.bn1(self.conv1(inputs)))
        return functional.relu(self.bn2(self.conv2(inner)) + shortcut)
