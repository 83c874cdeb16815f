"""Trained base networks and their data; or your own."""

from __future__ import annotations

from typing import Literal

from torch import nn

import fipray as fip
from experiments import networks
from experiments.cifar import cifar10_subset, published_resnet_20
from experiments.data import mnist
from experiments.training import Recipe, trained
from fipray.study.reference import find

DataName = Literal["mnist", "fashion", "cifar10_subset"]
NetworkName = Literal["lenet_300_100", "lenet_5", "resnet_20"]


def subject(data: DataName, network: NetworkName, data_root: str, seed: int) -> tuple[nn.Module, fip.Data, str]:
    """Trained base network of a study.

    Args:
        data: data set.
        network: architecture.
        data_root: folder that holds the data set; if empty, it is downloaded where possible.
        seed: seed of training.

    Returns:
        The network, its data, and the ID of its training (empty for published weights).

    Raises:
        UsageError: If the architecture does not fit the data, or files are missing.
    """
    if (data == "cifar10_subset") != (network == "resnet_20"):
        raise fip.errors.UsageError(
            f"network={network} does not read data={data}: resnet_20 goes with cifar10_subset, lenet_300_100 and "
            "lenet_5 with mnist and fashion"
        )
    if data == "cifar10_subset":
        held = cifar10_subset(data_root)
        arrays = fip.Data(
            anchors=held["train_inputs"][:-500],
            held_out=held["train_inputs"][-500:],
            test_inputs=held["test_inputs"],
            test_labels=held["test_labels"].astype("int64"),
        )
        return published_resnet_20(data_root), arrays, ""
    everything = mnist(data, data_root)
    arrays = everything.for_paths(num_held_out=5000)
    recipe = Recipe(network, arrays.digest, num_steps=3000, seed=seed)
    make = getattr(networks, network)
    return (
        trained(make, everything.train_inputs[:-5000], everything.train_labels[:-5000], recipe),
        arrays,
        recipe.base_id,
    )


def own(reference: str) -> tuple[nn.Module, fip.Data]:
    """Load a base network and data of your own.

    Args:
        reference: `module:function` that returns (nn.Module, fipray.Data).

    Returns:
        Both of them.

    Raises:
        UsageError: If there is no such function, or it returns anything else.
    """
    try:
        made: object = find(reference)()
    except fip.errors.UsageError as error:
        raise fip.errors.UsageError(f"base={reference!r} could not be had: {error}") from error
    match made:
        case (nn.Module() as module, fip.Data() as arrays):
            return module, arrays
    raise fip.errors.UsageError(
        f"base={reference!r} returned a {type(made).__name__}: let it return (nn.Module, fipray.Data)"
    )
