"""Data sets, base networks and budgets of the comparison of robust networks: one for development, the others to report.

Imported by `python -m benchmarks.comparisons.ensembles`. Whatever was chosen by looking at results was chosen on
"mnist"; the figures that count are those of the other sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

import fipray as fip
from benchmarks.baselines import Varied
from experiments import networks
from experiments.cifar import cifar10, published_resnet_20
from experiments.data import Inputs, Labelled, Labels, digits, mnist
from experiments.subjects import subject
from experiments.training import Recipe, trained

NUM_VALIDATION = 5000
"""Last training images, on which no contender is trained: rivals are tuned and recipes judge themselves on them."""

Loaded = tuple[Callable[[], nn.Module], nn.Module, Labelled]


@dataclass(frozen=True)
class Subject:
    """Data set with its network and threat model: what is asked, not how anyone answers."""

    role: Literal["development", "report"]
    epsilon: float
    network: str
    load: Callable[[str, int], Loaded]
    """folder, seed of the base network -> untrained network, base network, data"""


@dataclass(frozen=True, eq=False)
class Setting:
    """What every contender is given, for one seed. `inputs` and `labels` are without the validation images."""

    make: Callable[[], nn.Module]
    base: nn.Module
    inputs: Tensor
    labels: Tensor
    validation_inputs: Tensor
    validation_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    epsilon: float
    seconds: float
    num_members: int
    seed: int
    labelled: bool = False
    """whether recipes of paths are told the labels of the validation images"""
    mixes: bool = True
    """whether members of paths are also mixed with the base network as `fip.robustness.mixture` chooses, within their
    seconds"""

    @property
    def threat_model(self) -> fip.ThreatModel:
        return fip.ThreatModel("linf", self.epsilon)

    @property
    def varied(self) -> Varied:
        """Variation of the rivals' batches."""
        return Varied.usual(self.inputs)


def setting_of(name: str, root: str, *, seconds: float, num_members: int, seed: int, labelled: bool = False) -> Setting:
    """Load the setting of a data set for one seed.

    Args:
        name: one of `SETS`.
        root: folder that holds the data; if empty, FIPRAY_DATA or the folder `shared/data` beside the checkout.
        seconds: processor seconds of each contender beyond the base network.
        num_members: members of an ensemble.
        seed: seed of the base network and of every contender.
        labelled: see `Setting`.
    """
    one = SETS[name]
    make, base, data = one.load(root, seed)
    held = num_validation(len(data.train_inputs))
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    return Setting(
        make=make,
        base=base,
        inputs=inputs[:-held],
        labels=labels[:-held],
        validation_inputs=inputs[-held:],
        validation_labels=labels[-held:],
        test_inputs=torch.from_numpy(data.test_inputs),
        test_labels=torch.from_numpy(data.test_labels),
        epsilon=one.epsilon,
        seconds=seconds,
        num_members=num_members,
        seed=seed,
        labelled=labelled,
    )


def num_validation(num_train: int) -> int:
    """Count the validation images: 5,000, or a fifth of the training images where these are few."""
    return min(NUM_VALIDATION, num_train // 5)


def digits_mlp() -> nn.Module:
    """MLP of two hidden layers of 64 units for the digits of scikit-learn."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _of_mnist(kind: Literal["mnist", "fashion"]) -> Callable[[str, int], Loaded]:
    def load(root: str, seed: int) -> Loaded:
        base, _, _ = subject(kind, "lenet_300_100", root, seed)
        return networks.lenet_300_100, base, mnist(kind, root)

    return load


def _digits(root: str, seed: int) -> Loaded:
    data = digits()
    held = num_validation(len(data.train_inputs))
    recipe = Recipe("digits_mlp", data.for_paths(held).digest, num_steps=1500, seed=seed)
    base = trained(digits_mlp, data.train_inputs[:-held], data.train_labels[:-held], recipe)
    return digits_mlp, base, data


def _cifar10(root: str, seed: int) -> Loaded:
    # The published network saw the validation images in its training: what is kept on them is kept on seen images.
    found = cifar10(root)
    arrays = [found[f"{part}_{kind}"] for part in ("train", "test") for kind in ("inputs", "labels")]
    data = Labelled(*cast(tuple[Inputs, Labels, Inputs, Labels], arrays))
    return networks.resnet_20, published_resnet_20(root), data


SETS = {
    "mnist": Subject("development", 0.1, "lenet_300_100", _of_mnist("mnist")),
    "fashion": Subject("report", 0.05, "lenet_300_100", _of_mnist("fashion")),
    "cifar10": Subject("report", 2 / 255, "resnet_20", _cifar10),
    "digits": Subject("report", 0.1, "digits_mlp", _digits),
}
