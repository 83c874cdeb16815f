"""A small trained network, its data, and a finished run of `prune`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip


def blobs(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of points in eight dimensions, which a linear classifier tells apart with few errors."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 3, num)
    inputs = draws.normal(0, 1, (num, 8)) + 3 * np.eye(8)[labels]
    return inputs.astype(np.float32), labels


def trained() -> nn.Module:
    inputs, labels = blobs(400)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(torch.from_numpy(inputs)), torch.from_numpy(labels)).backward()
        optimiser.step()
    return module.eval()


def small_data(**more: object) -> fip.Data:
    inputs, labels = blobs(700)
    return fip.Data(
        anchors=inputs[:400],
        held_out=inputs[400:500],
        test_inputs=inputs[500:],
        test_labels=labels[500:],
        bounds=(-10.0, 10.0),
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def module() -> nn.Module:
    return trained()


@pytest.fixture(scope="session")
def data() -> fip.Data:
    return small_data()
