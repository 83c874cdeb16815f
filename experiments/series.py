"""Continual learning along functionally invariant paths, each from the end of the previous one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fipray as fip
from experiments import networks, scenarios
from experiments.scenarios import NetworkOf, ScenarioName, Series
from experiments.training import Recipe, trained

SeriesName = Literal[
    "split-mnist",
    "split-fashion",
    "split-cifar10-subset",
    "split-cifar100",
    "permuted-mnist",
    "rotated-mnist",
    "digits-then-clothes",
]
NetworkName = Literal["", "lenet_300_100", "paper_cnn"]
RATE = 1e-3  # of the training of bases
NUM_HELD_OUT = 200  # training inputs of each task that no path sees


@dataclass(frozen=True)
class Settings:
    """Settings for learning a series.

    The weight of a new task's loss beside the squared functional distance is `beta / (C k^fading)` after k tasks,
    where C is
    the number of outputs that are kept.

    Args:
        beta: weight of the new task's loss.
        rate: initial learning rate of Adam, annealed to 0 along half a cosine.
        batch_size: examples of the new task per step.
        num_held: anchors in each step's batch.
        fading: exponent; 1 where the kept inputs grow with the number of earlier tasks, so that each counts alike.
        temperature: of `fip.steppers.FirstOrder`.
        remembered: weight of the squared functional distance in stored metrics beside the new task's loss, if no
            inputs
            are stored.
        shifts: number of shifted copies of each stored image, by up to 1/14 of its width.
        known: whether only outputs of known classes are kept, because the function has to change for new ones.
        smoothing: label smoothing of the new task.
    """

    beta: float
    rate: float = 1e-3
    batch_size: int = 128
    num_held: int = 128
    fading: float = 1.0
    temperature: float = math.inf
    remembered: float = 0.0
    shifts: int = 24
    known: bool = False
    smoothing: float = 0.0


SETTINGS: dict[tuple[ScenarioName, bool], Settings] = {
    ("task", True): Settings(beta=20.0, num_held=64),
    ("domain", True): Settings(beta=60.0, num_held=64),
    ("class", True): Settings(beta=60.0, num_held=64),
    ("task", False): Settings(beta=6.0, fading=0.5, temperature=3.0),
    ("domain", False): Settings(beta=6.0, fading=0.5, temperature=3.0),
    ("class", False): Settings(beta=3.0, rate=2e-3, known=True, smoothing=0.5),
}
"""By scenario, and whether inputs of earlier tasks are stored: chosen on one seed of Split-MNIST."""


def study(
    *,
    series: SeriesName = "split-mnist",
    scenario: ScenarioName = "class",
    network: NetworkName = "",
    data_root: str = "",
    num_stored: int = 100,
    metric: bool = False,
    num_iterations: int = 2000,
    beta: float = 0.0,
    members: int = 1,
    epsilon: float = 0.0,
    num_examples: int = 500,
    seed: int = 0,
) -> fip.Study:
    """Build a base network that knows the first task, and a chain of paths that learn the others.

    With more members there are as many chains with other seeds, and the ensemble of their ends.

    Args:
        series: series of tasks.
        scenario: of the split series: "task", "domain" or "class".
        network: architecture, of digits-then-clothes.
        data_root: folder that holds the data set; if empty, MNIST and Fashion-MNIST are downloaded.
        num_stored: stored inputs per earlier class, without labels; with 0 the function stays on the new task's
            inputs
            (in several heads: on them as the earlier heads see them).
        metric: with no stored inputs, keep a Kronecker-factored metric of each earlier task
            (`fip.objectives.KroneckerMemory`).
        num_iterations: steps per task, also of the base network's training.
        beta: weight of the new task's loss; 0 is the default for the series.
        members: number of chains.
        epsilon: bound (linf) of the attacks on the ends; 0 for no attack.
        num_examples: test examples that are attacked.
        seed: seed of training and of all paths.

    Returns:
        The study.
    """
    made = of_name(series, scenario, network, data_root)
    return of_series(
        made,
        settings_of(made, num_stored, beta, metric=metric),
        num_stored=num_stored,
        num_iterations=num_iterations,
        members=members,
        evaluation=fip.Evaluation(fip.ThreatModel("linf", epsilon), num_examples=num_examples) if epsilon else None,
        seed=seed,
        parameters={
            "series": series,
            "scenario": made.scenario,
            "network": network,
            "num_stored": num_stored,
            "metric": metric,
            "num_iterations": num_iterations,
            "beta": beta,
            "members": members,
            "epsilon": epsilon,
            "seed": seed,
        },
    )


def pruned(
    *,
    series: SeriesName = "digits-then-clothes",
    network: NetworkName = "",
    data_root: str = "",
    sparsity: float = 0.9,
    num_stored: int = 50,
    num_iterations: int = 2000,
    num_steps: int = 1500,
    seed: int = 0,
) -> fip.Study:
    """Two orders in one study: prune, then learn the second task with the zeros fixed; and learn, then prune.

    Args:
        series: series of two tasks.
        network: architecture, of digits-then-clothes.
        data_root: folder that holds the data set; if empty, it is downloaded.
        sparsity: fraction of weights that are zero after pruning.
        num_stored: stored inputs per earlier class.
        num_iterations: steps of learning.
        num_steps: steps of pruning.
        seed: seed of training and of all paths.

    Returns:
        The study.
    """
    if not 0 < sparsity < 1:
        raise fip.errors.UsageError(f"sparsity is a fraction of the weights above 0 and below 1; {sparsity} was given")
    made = of_name(series, "class", network, data_root)
    whole = of_series(
        made,
        settings_of(made, num_stored),
        num_stored=num_stored,
        num_iterations=num_iterations,
        seed=seed,
        parameters={
            "series": series,
            "network": network,
            "sparsity": sparsity,
            "num_stored": num_stored,
            "num_iterations": num_iterations,
            "num_steps": num_steps,
            "seed": seed,
        },
    )
    learns, tasks = whole.paths[0], list(made.tasks)
    radius = 0.04 * math.log10(1 / (1 - sparsity)) ** 1.5
    prunes = fip.PathSpec(
        "pruned",
        fip.objectives.Sparsify(sparsity),
        stepper=fip.steppers.FirstOrder(),
        radius=fip.radii.Scheduled(radius),
        num_steps=num_steps,
        batch_size=128,
        uncertainty_fraction=0.5,
        save_at=fip.SaveAt(4),
        anchors=("first task",),
        held_out=learns.held_out,
        seed=seed,
    )
    zeros_stay = fip.objectives.WeightedSum(
        ((1.0, learns.objective), (0.0, fip.objectives.Sparsify(sparsity, ramp=None)))
    )
    paths = (
        prunes,
        replace(learns, name="pruned-then-taught", objective=zeros_stay, start="pruned"),
        replace(learns, name="taught"),
        replace(
            prunes,
            name="taught-then-pruned",
            start="taught",
            anchors=("first task", "second task"),
            held_out=(*learns.held_out, f"held out {tasks[1]}"),
        ),
    )
    sets = {
        **whole.data.sets,
        "first task": made.tasks[tasks[0]].inputs[:-NUM_HELD_OUT],
        "second task": made.tasks[tasks[1]].inputs[:-NUM_HELD_OUT],
    }
    return replace(whole, name=f"{whole.name}-pruned", paths=paths, data=replace(whole.data, sets=sets))


def of_name(series: SeriesName, scenario: ScenarioName, network: NetworkName, data_root: str) -> Series:
    if network and series != "digits-then-clothes":
        raise fip.errors.UsageError(f"network={network} is a choice for digits-then-clothes; {series} has its own")
    of_own: dict[NetworkName, NetworkOf | None] = {
        "": None,
        "lenet_300_100": networks.lenet_300_100,
        "paper_cnn": networks.paper_cnn,
    }
    match series:
        case "split-mnist":
            return scenarios.split("mnist", scenario, data_root)
        case "split-fashion":
            return scenarios.split("fashion", scenario, data_root)
        case "split-cifar10-subset":
            return scenarios.split("cifar10_subset", scenario, data_root)
        case "split-cifar100":
            return scenarios.split("cifar100", scenario, data_root)
        case "permuted-mnist":
            return scenarios.permuted(root=data_root)
        case "rotated-mnist":
            return scenarios.rotated(root=data_root)
        case "digits-then-clothes":
            return scenarios.digits_then_clothes(of_own[network], data_root)


def settings_of(series: Series, num_stored: int, beta: float = 0.0, *, metric: bool = False) -> Settings:
    if metric:
        if num_stored:
            raise fip.errors.UsageError(
                f"a metric is stored where no input is: with metric=True num_stored is 0, not {num_stored}"
            )
        return Settings(beta=beta or 1.0, fading=0.0, remembered=1.0)
    usual = SETTINGS[series.scenario, num_stored > 0]
    if num_stored and series.name.startswith(("permuted", "rotated", "digits-then")):  # ten new classes at once
        usual = replace(usual, rate=2e-3)
    if series.name.startswith("permuted"):  # where a shift makes nonsense of an image
        usual = replace(usual, shifts=0)
    if len(series.tasks) > 5 and num_stored:  # more to hold in each step than five tasks need
        usual = replace(usual, num_held=256)
    return replace(usual, beta=beta or usual.beta)


def of_series(
    series: Series,
    settings: Settings,
    *,
    num_stored: int = 100,
    num_iterations: int = 2000,
    members: int = 1,
    evaluation: fip.Evaluation | None = None,
    seed: int = 0,
    parameters: dict[str, object] | None = None,
) -> fip.Study:
    """Study of any series of tasks.

    Args:
        series: tasks and network.
        settings: how the series is learned.
        num_stored: stored inputs per earlier class.
        num_iterations: steps per task.
        members: number of chains.
        evaluation: attacks on the ends; None for none.
        seed: seed of training and of all paths.
        parameters: parameters for the manifest.

    Returns:
        The study.
    """
    if num_stored < 0 or members < 1 or num_iterations < 1:
        raise fip.errors.UsageError(
            f"num_stored is at least 0, members and num_iterations are at least 1; {num_stored}, {members} and "
            f"{num_iterations} were given"
        )
    module, base_id = base_of(series, num_iterations, seed)
    rate = settings.rate * math.sqrt(sum(part.numel() for part in module.parameters()))
    network, names = fip.Network.of(module), list(series.tasks)
    radius = fip.radii.Scheduled(rate / float(network.weights.norm()))
    num_outputs = network.outputs(network.weights, torch.from_numpy(series.tasks[names[0]].inputs[:1])).shape[1]
    chains = []
    for member in range(members):
        before = "base"
        for number, name in enumerate(names[1:], 1):
            known = 1 + max(int(series.tasks[earlier].labels.max()) for earlier in names[:number])
            stepper = fip.steppers.FirstOrder(
                beta=settings.beta / (known if settings.known else num_outputs) / number**settings.fading,
                temperature=settings.temperature,
                outputs=known if settings.known else None,
            )
            objective: fip.objectives.Objective = fip.objectives.LearnTask(
                name, settings.batch_size, settings.smoothing
            )
            memory = None
            if settings.remembered:
                objective = fip.objectives.WeightedSum(
                    ((settings.beta, objective), (settings.remembered, fip.objectives.KroneckerPenalty()))
                )
                stepper, memory = (
                    fip.steppers.FirstOrder(1.0, held=0.0),
                    fip.objectives.KroneckerMemory((f"seen {names[number - 1]}",)),
                )
            path = fip.PathSpec(
                name=f"{slug(name)}" + (f".{member}" if members > 1 else ""),
                objective=objective,
                stepper=stepper,
                radius=radius,
                num_steps=num_iterations,
                batch_size=settings.num_held,
                save_at=fip.SaveAt(4),
                start=before,
                anchors=() if memory else anchors_of(series, number, stored=num_stored > 0),
                memory=memory,
                augmentations=(_shifted(series, settings.shifts),) if settings.shifts and num_stored else (),
                held_out=tuple(f"held out {earlier}" for earlier in names[:number]),
                seed=1000 * seed + 100 * member + number,
            )
            chains.append(path)
            before = path.name
    ends = tuple(path.name for path in chains[len(names) - 2 :: len(names) - 1])
    return fip.Study(
        name=f"series-{series.name}-{series.scenario}",
        module=module,
        base_id=base_id,
        data=data_of(series, num_stored, seed, metric=settings.remembered > 0),
        paths=tuple(chains),
        ensembles=(fip.EnsembleSpec("members", ends),) if members > 1 else (),
        evaluation=evaluation,
        parameters=parameters or {},
    )


def base_of(series: Series, num_iterations: int, seed: int) -> tuple[nn.Module, str]:
    """Network trained on the first task of a series.

    Args:
        series: tasks and network.
        num_iterations: steps of training.
        seed: seed of training.

    Returns:
        The network, and the ID of its training.
    """
    first = series.tasks[next(iter(series.tasks))]
    data = fip.Data(first.inputs, first.inputs[:1], bounds=series.bounds)
    recipe = Recipe(f"{series.name} {series.scenario} {series.network}", data.digest, num_iterations, 128, RATE, seed)
    inputs = first.inputs[:-NUM_HELD_OUT].astype(np.float32, copy=False)
    return trained(series.make, inputs, first.labels[:-NUM_HELD_OUT], recipe), recipe.base_id


def anchors_of(series: Series, number: int, *, stored: bool) -> tuple[str, ...]:
    """Names of the sets on which the function must stay while a task is learned.

    Args:
        series: tasks and network.
        number: number of the task, from 0.
        stored: whether inputs of earlier tasks are stored.

    Returns:
        Names in `Data.sets`.
    """
    earlier, own = list(series.tasks)[:number], list(series.tasks)[number]
    if stored:
        return tuple(f"stored {name}" for name in earlier)
    if series.scenario == "task":
        return tuple(f"{own} seen as {name}" for name in earlier)
    return (f"{own} seen",)


def data_of(series: Series, num_stored: int, seed: int, *, metric: bool = False) -> fip.Data:
    """Build the data of a series: stored inputs of earlier tasks, the tasks, and test inputs.

    Args:
        series: tasks and network.
        num_stored: stored inputs per class.
        seed: seed of the draw.
        metric: whether inputs are needed for Kronecker-factored metrics.

    Returns:
        The data.
    """
    random = np.random.default_rng(seed)
    sets, tasks = {}, {}
    for number, (name, task) in enumerate(series.tasks.items()):
        inputs, labels = task.inputs[:-NUM_HELD_OUT], task.labels[:-NUM_HELD_OUT]
        tasks[name] = replace(task, inputs=inputs, labels=labels)
        sets[f"held out {name}"] = task.inputs[-NUM_HELD_OUT:]
        if num_stored:
            kept = [random.permutation(np.flatnonzero(labels == one))[:num_stored] for one in np.unique(labels)]
            sets[f"stored {name}"] = inputs[np.concatenate(kept)]
        elif metric:
            sets[f"seen {name}"] = inputs
        elif number and series.scenario == "task":
            for before, earlier in enumerate(list(series.tasks)[:number]):
                sets[f"{name} seen as {earlier}"] = _told(inputs, before)
        elif number:
            sets[f"{name} seen"] = inputs
    whole = [task for task in series.tasks.values() if task.test_inputs is not None and task.test_labels is not None]
    first = next(iter(series.tasks))
    return fip.Data(
        anchors=sets[f"held out {first}"],
        held_out=sets[f"held out {first}"],
        test_inputs=np.concatenate([task.test_inputs for task in whole]),
        test_labels=np.concatenate([task.test_labels for task in whole]),
        bounds=series.bounds,
        sets=sets,
        tasks=tasks,
    )


def slug(name: str) -> str:
    """Name of a path for a task.

    Args:
        name: name of the task.

    Returns:
        The name with hyphens instead of spaces.
    """
    return name.replace(" and ", "-").replace(" ", "-")


def _told(inputs: NDArray[np.generic], task: int) -> NDArray[np.generic]:
    """Return inputs with the number of another task."""
    told = inputs.copy()
    told[:, 0] = task
    return told


def _shifted(series: Series, copies: int) -> fip.augmentations.Shifted:
    shape = next(iter(series.tasks.values())).inputs.shape[1:]
    pixels = max(1, series.image[-1] // 14)
    return fip.augmentations.Shifted(copies, pixels, image=() if len(shape) == 3 else series.image)
