"""What products with the metric and whole steps cost, in milliseconds and in gradients of the same batch.

    python -m benchmarks.engine [--quick] [--json FILE] [--figure FILE] [--device cuda]

Durations are medians over rounds, each of which measures everything once; the first, uncounted round warms up. Those in
gradients are divided by the gradient of the same round. On one CPU thread they are the processor's time, so that what
else runs on the machine counts little; else they are the clock's, on a GPU after it has finished.

GFLOP/s counts two operations for each multiplication with its addition in the matrix products and convolutions that
were carried out, and nothing else. With F those of a forward pass, and f of its first layer: a gradient costs 3F - f,
`J v` and `J^T u` 2F - f each, an iteration 4F - 2f, a forward pass with its graph and the one for `J v` 3F - f. The
measure beside it is a product of two 1024 x 1024 matrices in the same rounds, in float32.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import fipray.paths
from benchmarks.engine.clock import Clock, median_ratio
from benchmarks.engine.subjects import SUBJECTS, Subject
from fipray.errors import UsageError
from fipray.geometry import FisherRao, Metric, conjugate_gradients
from fipray.geometry.metric import Precision
from fipray.networks import Network
from fipray.paths import (
    Batch,
    Corrected,
    FirstOrder,
    InputNullSpace,
    Kronecker,
    Natural,
    Problem,
    Published,
    Situation,
    Stepper,
)

GRADIENT, ITERATION, NATURAL, MATMUL = "gradient", "CG iteration", "Natural, 8 iterations", "matmul"
TARGETS = {ITERATION: 2.0, NATURAL: 18.0}  # gradients, at most
SIDE = 1024


@dataclass(frozen=True)
class Toward:
    """`|w - point|^2 / 2`: an objective that costs nothing beside a pass."""

    point: Tensor

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return (weights - self.point).square().sum() / 2

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return weights - self.point


@dataclass(frozen=True)
class Job:
    """Something to be timed: what it costs is the sum of its parts', each so many times."""

    what: str
    parts: tuple[tuple[float, Callable[[], object]], ...]


@dataclass(frozen=True)
class Record:
    """One line of the table. gradients: in units of one gradient of the same batch."""

    network: str
    batch: int
    what: str
    milliseconds: float
    gradients: float
    gflops: float
    fraction_of_matmul: float


def main(
    quick: Annotated[bool, typer.Option(help="Batches of 8, one round.")] = False,
    network: Annotated[list[str] | None, typer.Option(help="lenet, resnet; both by default.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="128 and 512 by default, 8 with --quick.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of everything; --quick takes 1.")] = 7,
    steppers: Annotated[bool, typer.Option(help="The other steppers beside the natural one, too.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records there.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw them there.")] = None,
) -> None:
    """Measure, print the table, and end with status 1 where a target is missed."""
    torch.set_num_threads(threads)
    console, records = Console(), list[Record]()
    clock = Clock.of(torch.device(device), threads)
    try:
        unknown = sorted(set(network or ()) - set(SUBJECTS))
        if unknown:
            raise UsageError(f"there is no network {', '.join(unknown)}; there are: {', '.join(SUBJECTS)}")
        if clock.device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError("there is no CUDA device here: leave --device out")
        subjects = [SUBJECTS[name]("") for name in network or SUBJECTS]
    except UsageError as error:
        Console(stderr=True).print(str(error), soft_wrap=True)
        sys.exit(2)
    for subject in subjects:
        for size in batch or ([8] if quick else [128, 512]):
            title = f"{subject.name}, batch {size}"
            records += measured(subject, size, clock, 1 if quick else rounds, title, steppers)
            console.print(table(title, [one for one in records if (one.network, one.batch) == (subject.name, size)]))
            if json_file:  # after each part: what was measured is there, whatever becomes of the rest
                json_file.write_text(json.dumps([asdict(one) for one in records], indent=1) + "\n")
    if figure:
        draw(records, figure)
    missed = [one for one in records if one.gradients > TARGETS.get(one.what, float("inf"))]
    for one in missed:
        aim = f"{one.gradients:.2f} gradients, aim {TARGETS[one.what]:g}"
        console.print(f"missed: {one.what}, {one.network}, batch {one.batch}: {aim}")
    sys.exit(1 if missed else 0)


def measured(subject: Subject, size: int, clock: Clock, rounds: int, title: str, steppers: bool) -> list[Record]:
    """Measure one network and batch size."""
    works = tuple(works_of(subject, size, clock.device, steppers))
    flops = [sum(fraction * _flops(call) for fraction, call in job.parts) for job in works]  # warms up, too
    times: list[list[float]] = [[] for _ in works]
    for _ in track(range(rounds), title, console=Console(stderr=True), transient=True):
        for job, found in zip(works, times, strict=True):
            found.append(sum(fraction * clock.seconds(call) for fraction, call in job.parts))
    names = [job.what for job in works]
    unit, matmul = times[names.index(GRADIENT)], times[names.index(MATMUL)]
    fastest = 2 * SIDE**3 / statistics.median(matmul) / 1e9
    records = []
    for name, count, found in zip(names, flops, times, strict=True):
        seconds = statistics.median(found)
        gradients = median_ratio(found, unit)
        speed = count / seconds / 1e9
        records.append(Record(subject.name, size, name, 1e3 * seconds, gradients, speed, speed / fastest))
    return records


def works_of(subject: Subject, size: int, device: torch.device, with_steppers: bool) -> Iterator[Job]:
    """All that is timed."""
    generator = torch.Generator().manual_seed(0)
    network = Network.of(subject.module).to(device)
    start = network.weights
    problem = Problem(network, geometry=FisherRao())
    inputs = subject.inputs[torch.randint(len(subject.inputs), (size,), generator=generator)].to(device)
    batch = problem.batch(inputs)
    length = torch.linalg.vector_norm(start)

    def random_direction() -> Tensor:
        drawn = torch.randn(len(start), generator=generator).to(device)
        return drawn * (length / torch.linalg.vector_norm(drawn))

    weights = start + 1e-3 * random_direction()
    situation = Situation(problem, Toward(weights + random_direction()), weights, batch, 0.01 * float(length))
    square = torch.randn(SIDE, SIDE, generator=generator).to(device)

    def gradient() -> Tensor:
        moving = weights.detach().requires_grad_(True)
        distance = (problem.geometry.embed(network(moving, inputs)) - batch.reference).square().sum(1).mean()
        return torch.autograd.grad(distance, moving)[0]

    yield Job(MATMUL, ((1.0, lambda: square @ square),))
    yield Job(GRADIENT, ((1.0, gradient),))
    precisions: Sequence[Precision] = ("full", "bf16") if device.type == "cuda" else ("full",)
    for precision in precisions:
        yield from _products(situation, precision)
    if with_steppers:
        yield from _steps(situation)


def _steps(situation: Situation) -> Iterator[Job]:
    """One step of each stepper."""
    steppers: dict[str, Stepper] = {
        "Natural": Natural(),
        "FirstOrder": FirstOrder(),
        "Published": Published(),
        "InputNullSpace, gathered": InputNullSpace(num_batches=1),
        "Corrected(FirstOrder, Natural(2))": Corrected(FirstOrder(), Natural(iterations=2)),
    }
    if hasattr(fipray.paths, "Projected"):
        steppers["Projected"] = fipray.paths.Projected()
    for name, stepper in steppers.items():
        yield Job(name, ((1.0, _step(stepper, situation)),))
    kronecker = Kronecker()
    first = kronecker.begin(situation.problem)
    later = kronecker.propose(situation, first).state
    fraction = 1 / kronecker.refresh
    yield Job(
        f"Kronecker, refreshed every {kronecker.refresh}",
        (
            (fraction, lambda: kronecker.propose(situation, first)),
            (1 - fraction, lambda: kronecker.propose(situation, later)),
        ),
    )


def _products(situation: Situation, precision: Precision) -> Iterator[Job]:
    """Products with the metric, and the natural step made of them."""
    problem, inputs, mark = situation.problem, situation.batch.inputs, "" if precision == "full" else f", {precision}"

    def made() -> Metric:
        metric = Metric(problem.network, situation.weights, inputs, problem.geometry, precision=precision)
        metric.j(situation.descent)
        return metric

    metric = made()
    sensitivities = situation.batch.normal(*metric.embedded.shape)
    right = metric.jt(sensitivities)
    damping = Natural().damping
    iterated = Natural(damping=0.0, precision=precision)  # without damping it never solves exactly

    def iterations() -> object:
        return conjugate_gradients(lambda z: metric @ z + damping * z, right, iterations=2)

    def graph() -> None:
        fresh = Metric(problem.network, situation.weights, inputs, problem.geometry, precision=precision)
        fresh.j(situation.descent)

    yield Job(f"forward pass, graphs, first J v{mark}", ((1.0, graph),))
    yield Job(f"J v{mark}", ((1.0, lambda: metric.j(right)),))
    yield Job(f"J^T u{mark}", ((1.0, lambda: metric.jt(sensitivities)),))
    yield Job(f"{ITERATION}{mark}", ((0.5, iterations),))
    yield Job(f"{NATURAL}{mark}", ((1.0, _step(iterated, situation)),))


def _step(stepper: Stepper, situation: Situation) -> Callable[[], object]:
    """One step in the middle of a path: another was made before it."""
    state = stepper.propose(situation, stepper.begin(situation.problem)).state
    return lambda: stepper.propose(situation, state)


def _flops(call: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counted:
        call()
    return float(counted.get_total_flops())


def table(title: str, records: Sequence[Record]) -> Table:
    """Print the records of one network and batch size as a table."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("what")
    for name in ("ms", "gradients", "GFLOP/s", "of matmul"):
        shown.add_column(name, justify="right")
    for one in records:
        mark = "" if one.what not in TARGETS else f" (aim {TARGETS[one.what]:g})"
        numbers = (f"{one.milliseconds:.1f}", f"{one.gradients:.2f}", f"{one.gflops:.1f}")
        shown.add_row(one.what + mark, *numbers, f"{one.fraction_of_matmul:.0%}")
    return shown


def draw(records: Sequence[Record], file: Path) -> None:
    """Plot all costs in gradients, one panel per network and batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((one.network, one.batch) for one in records))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 + 3 * len(panels), 6), sharey=True, squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        chosen = [one for one in records if (one.network, one.batch) == panel and one.what != MATMUL]
        names, lengths = [one.what for one in chosen], [one.gradients for one in chosen]
        axis.barh(names, lengths, color="0.6")
        for place, one in enumerate(chosen):
            axis.text(one.gradients, place, f" {one.gradients:.1f}", va="center", fontsize=7)
            if one.what in TARGETS:
                axis.plot([TARGETS[one.what]] * 2, [place - 0.4, place + 0.4], color="black")
        axis.set(title=f"{panel[0]}, batch {panel[1]}", xlabel="gradients (| at most)", xlim=(0, 1.15 * max(lengths)))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    typer.run(main)
