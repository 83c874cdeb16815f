"""Base networks, trained once and cached by their recipe."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from fipray.study.canonical import digest, to_json

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """Training with Adam and a one-cycle learning rate (Smith 2018).

    Args:
        network: name of the architecture.
        data: digest of the data.
        num_steps: number of steps.
        batch_size: examples per step.
        rate: greatest learning rate.
        seed: seed of initialisation and batches.
    """

    network: str
    data: str
    num_steps: int
    batch_size: int = 128
    rate: float = 2e-3
    seed: int = 0

    @property
    def base_id(self) -> str:
        """Hash of the recipe."""
        return digest(to_json(self))


def trained(
    make: Callable[[], nn.Module],
    inputs: NDArray[np.generic],
    labels: NDArray[np.generic],
    recipe: Recipe,
    loss: Loss = nn.functional.cross_entropy,
) -> nn.Module:
    """Train a module by a recipe, or load it from the cache.

    Args:
        make: makes the untrained module.
        inputs: training inputs [N, ...].
        labels: labels [N], or targets [N, ...] of another loss.
        recipe: how to train.
        loss: loss of outputs and labels.

    Returns:
        The module in evaluation mode.
    """
    torch.manual_seed(recipe.seed)
    module = make()
    file = user_cache_path("fipray") / "bases" / f"{recipe.base_id}.safetensors"
    try:
        module.load_state_dict(load(file.read_bytes()))
    except (OSError, SafetensorError, RuntimeError):  # not there, or not whole
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the same sums in the same order on any number of cores
        train(module, torch.from_numpy(inputs), torch.from_numpy(labels), recipe, loss)
        torch.set_num_threads(threads)
        _keep(file, save(module.state_dict()))
    return module.eval()


def train(
    module: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    loss: Loss = nn.functional.cross_entropy,
) -> None:
    """Train a module in place.

    Args:
        module: module, whose present weights are the start.
        inputs: training inputs [N, ...].
        labels: labels [N], or targets [N, ...] of another loss.
        recipe: how to train.
        loss: loss of outputs and labels.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.num_steps)
    module.train()
    for _ in range(recipe.num_steps):
        chosen = torch.randint(len(inputs), (recipe.batch_size,), generator=generator)
        optimizer.zero_grad()
        loss(module(inputs[chosen]), labels[chosen]).backward()
        optimizer.step()
        schedule.step()


def _keep(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(content)
        os.replace(temporary.name, file)
    except OSError:
        pass  # no cache, then: the results directory keeps the weights anyway
