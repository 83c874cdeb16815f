"""ResNet-18 of torchvision on CIFAR-10, for the recipes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import resnet18

import fipray as fip
from experiments.cifar import cifar10

NUM_HELD_OUT = 5000
FILE = Path("build/benchmarks/resnet18-cifar10.safetensors")
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
NUM_EPOCHS, BATCH_SIZE, RATE = 6, 128, 0.1


def data() -> fip.Data:
    """CIFAR-10 in 0..1: 45,000 anchors, 5,000 held-out inputs without labels, and the test images.

    Returns:
        The data.
    """
    held = _split()
    return fip.Data(
        anchors=held["anchors"],
        held_out=held["held_out"],
        test_inputs=held["test_inputs"],
        test_labels=held["test_labels"],
    )


def module() -> nn.Module:
    """ResNet-18 as torchvision defines it, at 32 x 32; trained on the anchors at the first call (half an hour).

    Returns:
        The module for inputs in 0..1, in evaluation mode.
    """
    network = resnet18(num_classes=10)
    if not FILE.is_file():
        held = _split()
        _train(network, torch.from_numpy(held["anchors"]), torch.from_numpy(held["anchor_labels"]))
        FILE.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, FILE)
    network.load_state_dict(load_file(FILE))
    return fip.networks.Normalised(network.eval(), MEAN, DEVIATION).eval()


@cache
def _split() -> dict[str, NDArray[Any]]:
    held = cifar10()
    # The parts of the training set are drawn: neighbours in the file are no random sample.
    order = np.random.default_rng(0).permutation(len(held["train_inputs"]))
    anchors, others = order[:-NUM_HELD_OUT], order[-NUM_HELD_OUT:]
    return {
        "anchors": held["train_inputs"][anchors],
        "anchor_labels": held["train_labels"][anchors],
        "held_out": held["train_inputs"][others],
        "test_inputs": held["test_inputs"],
        "test_labels": held["test_labels"],
    }


def _train(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Train with momentum, a one-cycle learning rate, mirrored and shifted images, in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    normalised = fip.networks.Normalised(network, MEAN, DEVIATION).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    num_batches = len(inputs) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=NUM_EPOCHS * num_batches)
    for epoch in range(NUM_EPOCHS):
        order, total = torch.randperm(len(inputs), generator=generator), 0.0
        for chosen in order[: num_batches * BATCH_SIZE].split(BATCH_SIZE):
            images = nn.functional.pad(inputs[chosen], (2, 2, 2, 2))
            down, right, mirrored = (int(torch.randint(k, (), generator=generator)) for k in (5, 5, 2))
            images = images[:, :, down : down + 32, right : right + 32]
            images = images.flip(3) if mirrored else images
            with torch.autocast("cpu", torch.bfloat16):
                outputs = normalised(images.contiguous(memory_format=torch.channels_last))
                loss = nn.functional.cross_entropy(outputs, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {NUM_EPOCHS}: loss {total / num_batches:.3f}", flush=True)
