"""The networks that are pruned, and all that prunes them, each within the same seconds of compute."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice

import torch
from torch import Tensor, nn

import fipray as fip
from benchmarks.baselines.pruning import Gradual, OneShot, Pruner
from benchmarks.baselines.surgeon import InStages, Surgeon
from experiments import pruning, subjects
from experiments.cifar import cifar10, cifar10_subset
from experiments.data import mnist
from experiments.mlpnet import published_mlpnet
from experiments.paths import pruning_baselines
from fipray.paths import Problem

TUNING_SEED = 9000  # of the trainings that tune; no contender has it


@dataclass(frozen=True)
class Settings:
    """What suits a network: of the rivals chosen on validation images, of the attack the bound (linf).

    num_anchors: of a path, drawn from all: what the base says of them costs a pass, which is of the budget.
    """

    gradual: Gradual
    epsilon: float
    ours: pruning.Settings
    num_gradients: int = 128
    num_anchors: int | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A base network, training inputs [N, ...] and labels [N], and what no method sees: `held_out` and test examples.

    Paths see no label.
    """

    network: str
    data: str
    base: nn.Module
    inputs: Tensor
    labels: Tensor
    held_out: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    settings: Settings


@dataclass(frozen=True, eq=False)
class Task:
    """What every contender is given. `seconds` are processor seconds on one thread."""

    subject: Subject
    sparsity: float
    seconds: float
    seed: int


Contender = Callable[[Task], tuple[nn.Module, float]]
"""-> the pruned network in evaluation mode, and the processor seconds that it cost"""


def anchors_of(task: Task) -> Tensor:
    """Those of experiments.pruning, as many of them as the budget is spent on."""
    inputs = task.subject.inputs
    if task.subject.settings.ours.mirrored:
        inputs = torch.from_numpy(pruning.mirrored(inputs.numpy()))
    some = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(task.seed))
    return inputs[some[: task.subject.settings.num_anchors]]


def path(task: Task, spec: fip.PathSpec, inputs: Tensor) -> tuple[nn.Module, float]:
    """Trace a path with as many steps as the seconds allow; if it took longer, trace it again with fewer."""
    began = time.process_time()
    network = fip.Network.of(task.subject.base)
    problem = Problem(network)
    anchors = problem.batch(inputs)
    spent = time.process_time() - began
    # of a long path, in which stages of the mask are as rare as they will be
    trial = fip.walk(
        problem,
        anchors.uncertainty_sampled(spec.uncertainty_fraction) if spec.uncertainty_fraction else anchors,
        spec.objective,
        fip.Settings(stepper=spec.stepper, radius=spec.radius, num_steps=2000, batch_size=spec.batch_size),
    )
    marks = [time.process_time() for _ in islice(trial, 45)]
    cost = (marks[-1] - marks[4]) / (len(marks) - 5)
    for attempt in range(3):
        began = time.process_time() - spent
        num_steps = max(1, int(0.93 * (task.seconds - spent) / cost))
        found = fip.trace(
            fip.Problem(network, anchors=anchors, held_out=task.subject.inputs[:100]),
            spec.objective,
            fip.Settings(
                stepper=spec.stepper,
                radius=spec.radius,
                num_steps=num_steps,
                batch_size=spec.batch_size,
                uncertainty_fraction=spec.uncertainty_fraction,
                save_at=fip.SaveAt(num_points=1, solver_state=False),
                seed=task.seed,
            ),
        )
        seconds = time.process_time() - began
        if seconds <= 1.03 * task.seconds or attempt == 2:
            break
        cost = (seconds - spent) / num_steps  # a step took longer than it did in the trial: walk again, fewer
    return network.module_at(found.end.weights).eval(), seconds


def first_order(task: Task) -> tuple[nn.Module, float]:
    """Ours, as experiments.pruning walks it."""
    return path(task, pruning.sparse_path((task.sparsity,), task.subject.settings.ours), anchors_of(task))


def published(task: Task) -> tuple[nn.Module, float]:
    """Prune by the scheme of the paper's code."""
    spec, _ = pruning_baselines(task.sparsity, num_steps=1, seed=task.seed)
    return path(task, spec, task.subject.inputs)


def recipe_path(task: Task) -> tuple[nn.Module, float]:
    """Run the recipe `prune` with no setting but the budget, of which its trial is a part; without labels.

    The end of its path is judged, whether or not it is within the recipe's allowance.
    """
    data = fip.Data(anchors=task.subject.inputs.numpy(), held_out=task.subject.held_out.numpy())
    with tempfile.TemporaryDirectory() as directory:
        began = time.process_time()
        made = fip.recipes.prune(
            task.subject.base,
            data,
            sparsity=task.sparsity,
            budget=f"{task.seconds:g} s",
            seed=task.seed,
            fallback=0.0,
        )
        results = made.run(directory, fip.LocalRunner(threads=1))
        seconds = time.process_time() - began
        return results.module("pruning").eval(), seconds


@cache
def distilled(subject: Subject, sparsity: float, seconds: float) -> Gradual:
    """Tune distillation under a gradual magnitude mask: learning rate and temperature, for free.

    Each choice is tried for a quarter of the seconds; the one whose classes agree most with the base network's on
    held-out inputs is taken. Images of three channels are shifted by up to 2 pixels and mirrored.
    """
    inputs = subject.held_out[:1000]

    def agreement(rival: Gradual) -> float:
        trained = rival.prune(
            subject.base, subject.inputs, subject.labels, sparsity, seed=TUNING_SEED, seconds=seconds / 4
        )
        (pruned,) = trained.members
        with torch.no_grad():
            return float((pruned(inputs).argmax(1) == subject.base(inputs).argmax(1)).double().mean())

    usual = replace(subject.settings.gradual, shift=2 if subject.inputs.shape[1] == 3 else 0)
    grid = [replace(usual, rate=rate, temperature=t) for rate in (1e-3, 3e-3, 1e-2) for t in (1.0, 4.0)]
    return max(grid, key=agreement)


def distillation(task: Task) -> tuple[nn.Module, float]:
    """Prune by the strongest simple rival without labels: gradually by magnitude, with distillation from the base."""
    subject = task.subject
    rival = distilled(subject, task.sparsity, task.seconds)
    trained = rival.prune(
        subject.base, subject.inputs, subject.labels, task.sparsity, seed=task.seed, seconds=task.seconds
    )
    return trained.members[0], trained.processor_seconds


def recipe(task: Task, make: Callable[[Settings], Pruner]) -> tuple[nn.Module, float]:
    subject = task.subject
    trained = make(subject.settings).prune(
        subject.base, subject.inputs, subject.labels, task.sparsity, seed=task.seed, seconds=task.seconds
    )
    return trained.members[0], trained.processor_seconds


def base(task: Task) -> tuple[nn.Module, float]:
    return task.subject.base, 0.0


CONTENDERS: dict[str, Contender] = {
    "one-shot magnitude": partial(recipe, make=lambda settings: OneShot()),
    "magnitude, refitted": partial(
        recipe, make=lambda settings: OneShot(Surgeon(settings.num_gradients, by_magnitude=True))
    ),
    "second order, in stages": partial(recipe, make=lambda settings: InStages(Surgeon(settings.num_gradients))),
    "second order, labels": partial(
        recipe,
        make=lambda settings: replace(settings.gradual, criterion=Surgeon(settings.num_gradients), num_stages=8),
    ),
    "gradual magnitude, labels": partial(recipe, make=lambda settings: settings.gradual),
    "gradual magnitude, distillation": distillation,
    "path: published": published,
    "path: first order": first_order,
    "path: recipe": recipe_path,
}
"""All by their names in the table."""


def _of_mnist(data: subjects.DataName, network: subjects.NetworkName) -> Callable[..., Subject]:
    def made(root: str, seed: int) -> Subject:
        module, arrays, _ = subjects.subject(data, network, root, seed)
        ours = pruning.SETTINGS[data, network]
        settings = Settings(Gradual(), ours.epsilon, ours)
        return _subject(network, data, module, arrays, mnist(data, root).train_labels, settings)

    return made


def _mlpnet(root: str, seed: int) -> Subject:
    everything = mnist("mnist", root)
    settings = Settings(Gradual(), epsilon=0.1, ours=pruning.SETTINGS["mnist", "mlpnet"])
    arrays = everything.for_paths(num_held_out=5000)
    return _subject("mlpnet", "mnist", published_mlpnet(root), arrays, everything.train_labels, settings)


def _resnet(root: str, seed: int) -> Subject:
    module, arrays, _ = subjects.subject("cifar10_subset", "resnet_20", root, seed)
    settings = Settings(
        Gradual(rate=4e-3, batch_size=32),
        epsilon=2 / 255,
        ours=pruning.SETTINGS["cifar10_subset", "resnet_20"],
        num_anchors=4000,
    )
    labels = cifar10_subset(root)["train_labels"]
    return _subject("resnet_20", "cifar10_subset", module, arrays, labels, settings)


def _whole_resnet(root: str, seed: int) -> Subject:
    found = cifar10(root)
    module, _, _ = subjects.subject("cifar10_subset", "resnet_20", root, seed)
    settings = Settings(
        Gradual(batch_size=128), epsilon=2 / 255, ours=pruning.SETTINGS["cifar10_subset", "resnet_20"], num_anchors=4000
    )
    arrays = fip.Data(
        anchors=found["train_inputs"][:-1000],
        held_out=found["train_inputs"][-1000:],
        test_inputs=found["test_inputs"],
        test_labels=found["test_labels"].astype("int64"),
    )
    return _subject("resnet_20", "cifar10", module, arrays, found["train_labels"], settings)


def _subject(
    network: str, data: str, module: nn.Module, arrays: fip.Data, labels: object, settings: Settings
) -> Subject:
    if arrays.test_inputs is None or arrays.test_labels is None:
        raise fip.errors.DataError("the data set has no test part")
    return Subject(
        network=network,
        data=data,
        base=module,
        inputs=torch.from_numpy(arrays.anchors),
        labels=torch.as_tensor(labels)[: len(arrays.anchors)].long(),
        held_out=torch.from_numpy(arrays.held_out),
        test_inputs=torch.from_numpy(arrays.test_inputs),
        test_labels=torch.from_numpy(arrays.test_labels).long(),
        settings=settings,
    )


SUBJECTS: dict[str, Callable[[str, int], Subject]] = {
    "lenet-mnist": _of_mnist("mnist", "lenet_300_100"),
    "lenet-fashion": _of_mnist("fashion", "lenet_300_100"),
    "lenet5-mnist": _of_mnist("mnist", "lenet_5"),
    "resnet20": _resnet,
    "resnet20-cifar10": _whole_resnet,
    "mlpnet": _mlpnet,
}
"""root of the data, seed -> what is pruned; the LeNets are trained with the seed, the others are as published."""
