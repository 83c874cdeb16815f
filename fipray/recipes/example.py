"""Network and data that stand for your own: handwritten digits of scikit-learn, and a small network for them."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import nn

from fipray.study import Data


def data() -> Data:
    """Handwritten digits, 8 x 8 pixels.

    Returns:
        1,100 anchors, 300 held-out inputs and 397 test inputs.
    """
    inputs, labels = _digits()
    return Data(
        anchors=inputs[:1100],
        held_out=inputs[1100:1400],
        held_out_labels=labels[1100:1400],
        test_inputs=inputs[1400:],
        test_labels=labels[1400:],
    )


def module() -> nn.Module:
    """Network of two hidden layers, trained on the anchors in about two seconds.

    Returns:
        The network in evaluation mode.
    """
    return _trained()


@cache
def _trained() -> nn.Module:
    inputs, labels = (torch.from_numpy(array[:1100]) for array in _digits())
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(made.parameters(), 2e-3)
    for _ in range(30):
        for chosen in torch.randperm(1100, generator=generator).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(made(inputs[chosen]), labels[chosen]).backward()
            optimiser.step()
    return made.eval()


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # imported when called: scikit-learn takes a second to load

    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    return (inputs[order] / 16).astype(np.float32), labels[order].astype(np.int64)
