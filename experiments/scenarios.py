"""Series of tasks for continual learning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fipray as fip
from experiments import networks
from experiments.cifar import cifar10_subset, cifar100
from experiments.data import Inputs, Labelled, Labels, mnist
from fipray.networks import MultiHead, for_task

ScenarioName = Literal["task", "domain", "class"]
SplitName = Literal["mnist", "fashion", "cifar10_subset", "cifar100"]


class NetworkOf(Protocol):
    """Function that makes an untrained network with a given number of outputs."""

    __name__: str

    def __call__(self, num_outputs: int, /) -> nn.Module: ...


@dataclass(frozen=True, eq=False)
class Series:
    """Tasks in the order in which they are learned, and an untrained network for them.

    Args:
        name: name of the series.
        tasks: tasks by name, in order.
        make: makes the untrained network; its weights depend on the seed of torch.
        network: name of the architecture.
        image: shape [C, H, W] of an image.
        scenario: "task" (the task is given), "domain" (the task is not needed) or "class" (the task must be
            inferred),
            as defined by van de Ven & Tolias (2019). In "task" inputs are flattened.
        bounds: least and greatest value of an input.
    """

    name: str
    tasks: dict[str, fip.Task]
    make: Callable[[], nn.Module]
    network: str
    image: tuple[int, ...]
    scenario: ScenarioName
    bounds: tuple[float, float] = (0.0, 1.0)


def split(
    data: SplitName = "mnist",
    scenario: ScenarioName = "class",
    root: str = "",
    network: NetworkOf | None = None,
    *,
    own_norms: bool = False,
) -> Series:
    """Split a data set with ten classes into five tasks of two, or with a hundred classes into ten tasks of ten.

    Args:
        data: data set.
        scenario: "task": one head per task, with the task's number before the flattened image
            (`fip.networks.MultiHead`);
            "domain": outputs for the classes within a task; "class": outputs for all classes.
        root: folder that holds the data set; if empty, it is downloaded where possible.
        network: makes the network; None is the default for the data set.
        own_norms: in "task", whether every BatchNorm has a scale and a shift per task.

    Returns:
        The series.
    """
    whole, network = _labelled(data, root), network or _USUAL[data]
    num_classes, num_tasks = (100, 10) if data == "cifar100" else (10, 5)
    size = num_classes // num_tasks
    num_outputs = size if scenario == "domain" else num_classes
    shape = whole.train_inputs.shape[1:]

    def make() -> nn.Module:
        made = network(num_outputs)
        return MultiHead(made, num_tasks, shape, own_norms=own_norms) if scenario == "task" else made

    tasks = {}
    for number in range(num_tasks):
        classes = tuple(range(size * number, size * (number + 1)))
        parts = [
            _of_classes(inputs, labels, classes)
            for inputs, labels in ((whole.train_inputs, whole.train_labels), (whole.test_inputs, whole.test_labels))
        ]
        if scenario != "class":
            parts = [(inputs, labels % size) for inputs, labels in parts]
        if scenario == "task":
            parts = [(for_task(torch.from_numpy(inputs), number).numpy(), labels) for inputs, labels in parts]
        tasks[f"{classes[0]} {'and' if size == 2 else 'to'} {classes[-1]}"] = fip.Task(*parts[0], *parts[1])
    bounds = (0.0, num_tasks - 1.0 if scenario == "task" else 1.0)
    return Series(f"split-{data.replace('_', '-')}", tasks, make, network.__name__, shape, scenario, bounds)


def permuted(num_tasks: int = 10, data: Literal["mnist", "fashion"] = "mnist", root: str = "", seed: int = 0) -> Series:
    """Ten classes with permuted pixels, another permutation for each task; the first task is not permuted.

    Args:
        num_tasks: number of tasks.
        data: data set.
        root: folder that holds the data set; if empty, it is downloaded.
        seed: seed of the permutations.

    Returns:
        The series.
    """
    generator = np.random.default_rng(seed)
    whole = mnist(data, root)
    tasks = {}
    for number in range(num_tasks):
        order = generator.permutation(784) if number else np.arange(784)
        tasks[f"order {number}"] = _seen(whole, partial(reordered, order=order))
    return Series(f"permuted-{data}", tasks, lambda: networks.mlp_400(10), "mlp_400", (1, 28, 28), "domain")


def rotated(num_tasks: int = 10, data: Literal["mnist", "fashion"] = "mnist", root: str = "") -> Series:
    """Ten classes with rotated images, 180 / num_tasks degrees further for each task.

    Args:
        num_tasks: number of tasks.
        data: data set.
        root: folder that holds the data set; if empty, it is downloaded.

    Returns:
        The series.
    """
    whole = mnist(data, root)
    tasks = {}
    for number in range(num_tasks):
        angle = 180 * number / num_tasks
        tasks[f"{angle:g} degrees"] = _seen(whole, partial(turned, degrees=angle))
    return Series(f"rotated-{data}", tasks, lambda: networks.mlp_400(10), "mlp_400", (1, 28, 28), "domain")


def digits_then_clothes(network: NetworkOf | None = None, root: str = "") -> Series:
    """MNIST, then Fashion-MNIST, with one head of 20 classes (Raghavan & Thomson 2022).

    Args:
        network: makes the network; None is LeNet-300-100.
        root: folder that holds the data sets; if empty, they are downloaded.

    Returns:
        The series.
    """
    digits, clothes = mnist("mnist", root), mnist("fashion", root)
    tasks = {
        "digits": fip.Task(digits.train_inputs, digits.train_labels, digits.test_inputs, digits.test_labels),
        "clothes": fip.Task(
            clothes.train_inputs, clothes.train_labels + 10, clothes.test_inputs, clothes.test_labels + 10
        ),
    }
    network = network or networks.lenet_300_100
    return Series("digits-then-clothes", tasks, lambda: network(20), network.__name__, (1, 28, 28), "class")


def reordered(images: Inputs, order: NDArray[np.int64]) -> Inputs:
    """Permute the values of each image.

    Args:
        images: [N, C, H, W].
        order: permutation [C H W].

    Returns:
        Images [N, C, H, W].
    """
    return np.ascontiguousarray(images.reshape(len(images), -1)[:, order].reshape(images.shape))


def turned(images: Inputs, degrees: float) -> Inputs:
    """Rotate images about their centre with bilinear interpolation; pixels from outside are 0.

    Args:
        images: [N, 1, H, W].
        degrees: angle.

    Returns:
        Images [N, 1, H, W].
    """
    angle = np.deg2rad(degrees)
    rotation = torch.tensor([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]]).float()
    parts = []
    for part in torch.from_numpy(images).split(4096):
        grid = nn.functional.affine_grid(rotation.expand(len(part), 2, 3), list(part.shape), align_corners=False)
        parts.append(nn.functional.grid_sample(part, grid, align_corners=False))
    return torch.cat(parts).numpy()


def _seen(whole: Labelled, change: Callable[[Inputs], Inputs]) -> fip.Task:
    return fip.Task(change(whole.train_inputs), whole.train_labels, change(whole.test_inputs), whole.test_labels)


def _of_classes(inputs: Inputs, labels: Labels, classes: tuple[int, ...]) -> tuple[Inputs, Labels]:
    own = np.isin(labels, classes)
    return inputs[own], labels[own]


def _labelled(data: SplitName, root: str) -> Labelled:
    if data in ("mnist", "fashion"):
        return mnist(data, root)
    held = cifar10_subset(root) if data == "cifar10_subset" else cifar100(root)
    parts = [np.asarray(held[f"{part}_inputs"], dtype=np.float32) for part in ("train", "test")]
    labels = [np.asarray(held[f"{part}_labels"], dtype=np.int64) for part in ("train", "test")]
    return Labelled(parts[0], labels[0], parts[1], labels[1])


_USUAL: dict[SplitName, NetworkOf] = {
    "mnist": networks.mlp_400,
    "fashion": networks.mlp_400,
    "cifar10_subset": networks.cifar_cnn,
    "cifar100": networks.cifar_cnn,
}
