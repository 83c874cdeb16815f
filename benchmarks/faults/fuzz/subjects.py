"""The small things that generated calls are about: a network, inputs, a study, a directory of results."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

import fipray as fip
from fipray.geometry import KroneckerMetric
from fipray.paths import Batch, Problem

NUM_INPUTS, NUM_HIDDEN, NUM_CLASSES = 4, 5, 3


def module(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Linear(NUM_INPUTS, NUM_HIDDEN), nn.ReLU(), nn.Linear(NUM_HIDDEN, NUM_CLASSES)
        return nn.Sequential(*layers).eval()


@cache
def network(seed: int = 0) -> fip.Network:
    """Return the network of a seed; with seed 2 only the last layer moves."""
    return fip.Network.of(module(seed), moving="2.*" if seed == 2 else None)


@cache
def inputs(seed: int = 0, size: int = 12) -> Tensor:
    return torch.rand(size, NUM_INPUTS, generator=torch.Generator().manual_seed(seed))


@cache
def labels(seed: int = 0, size: int = 12) -> Tensor:
    return torch.randint(NUM_CLASSES, (size,), generator=torch.Generator().manual_seed(seed))


def classifier(given: Tensor) -> Tensor:
    return network()(network().weights, given)


def problem() -> Problem:
    tasks = {"a": fip.Examples(inputs(), labels())}
    return Problem(network(), inputs(), inputs(1), others=(network(1).weights,), tasks=tasks)


def batch() -> Batch:
    return problem().batch(inputs())


@cache
def metric() -> KroneckerMetric:
    return KroneckerMetric.of(fip.geometry.Metric(network(), network().weights, inputs(), fip.FisherRao()))


def data() -> fip.Data:
    arrays = [inputs(seed, 20).numpy() for seed in range(4)]
    task = fip.Task(arrays[0], labels(0, 20).numpy(), arrays[1], labels(1, 20).numpy())
    return fip.Data(arrays[0], arrays[1], arrays[2], labels(2, 20).numpy(), sets={"more": arrays[3]}, tasks={"a": task})


@cache
def kept() -> Problem:
    """One that keeps two quantities."""
    return Problem(
        network(), inputs(), inputs(1), keeps={"outputs": fip.keeps.Outputs(), "slopes": fip.keeps.Slopes(10.0)}
    )


def settings() -> list[fip.Settings]:
    """Return settings of several kinds."""
    steppers: tuple[fip.steppers.Stepper, ...] = (
        fip.steppers.Natural(),
        fip.steppers.Natural(iterations=None),
        fip.steppers.FirstOrder(beta=0.1),
        fip.steppers.Projected(),
        fip.steppers.Kronecker(),
        fip.steppers.InputNullSpace(),
        fip.steppers.Published(),
        fip.steppers.FirstOrder(),
    )
    radii: tuple[fip.radii.RadiusControl, ...] = (fip.radii.Adaptive(), fip.radii.Scheduled(0.1))
    events: tuple[tuple[fip.events.Event, ...], ...] = ((), (fip.events.FunctionalDistanceAbove(0.01),))
    return [
        fip.Settings(stepper=stepper, radius=radius, events=ends, num_steps=3, batch_size=5)
        for stepper in steppers
        for radius in radii
        for ends in events
    ]


def path() -> fip.WeightPath:
    """One that was paused after a step."""
    given = inputs(), inputs(1)
    return fip.trace(
        fip.Problem(network(), anchors=given[0], held_out=given[1]),
        fip.objectives.GradientDiversity(),
        fip.Settings(num_steps=3),
        until=1,
    )


def study(
    *, num_steps: int = 2, sparsity: float = 0.5, batch_size: int = 8, name: str = "fuzz", evaluate: bool = True
) -> fip.Study:
    """Two short paths, an ensemble and an attack."""
    sparse = fip.PathSpec("sparse", fip.objectives.Sparsify(sparsity), num_steps=num_steps, batch_size=batch_size)
    diverse = fip.PathSpec(
        "diverse", fip.objectives.GradientDiversity(), num_steps=num_steps, batch_size=batch_size, others=("sparse",)
    )
    judged = fip.Evaluation(fip.ThreatModel("linf", 0.1), attacks=(fip.attacks.FGSM(),), num_examples=10)
    members = fip.EnsembleSpec("both", ("sparse", "diverse"))
    return fip.Study(name, module(), data(), (sparse, diverse), (members,), judged if evaluate else None)


def searching(*, num_trials: int = 2) -> fip.search.Search:
    """Return a search over one path."""
    path = fip.PathSpec("sparse", fip.objectives.Sparsify(0.5), num_steps=2, batch_size=8)
    made = fip.Study("fuzz-search", module(), data(), (path,))
    return fip.search.Search(made, {"radius.tolerance": fip.search.Uniform(0.1, 0.2)}, {"sparsity": "max"}, num_trials)


@cache
def results() -> Path:
    """Return a directory with results of the study."""
    directory = Path(tempfile.mkdtemp(prefix="fipray-fuzz-")) / "results"
    fip.LocalRunner().run(study(), directory)
    return directory
