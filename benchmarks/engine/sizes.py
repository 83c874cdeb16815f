"""What a step of a path costs beside a plain training step, by size of the network.

    python -m benchmarks.engine.sizes [--quick] [--network resnet18] [--json FILE]

A plain step is a forward pass, cross-entropy to the base network's probabilities, a backward pass and fused Adam, on
the same batch. Steps of paths are those of `walk`, with the draw of their batches, the radius control and the
restriction. All are timed in one process in turn, several steps at a time; the table holds medians over rounds of the
ratios within a round. On one thread the times are the processor's. Peak memory is that of a process of its own for each
row, above what it holds with torch alone. Weights and inputs are random, which changes neither.
"""

from __future__ import annotations

import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
import typer
from torch import Tensor, nn

from experiments.networks import lenet_300_100, resnet_20
from fipray.execution.memory import keep_freed_memory
from fipray.paths import Adaptive, Batch, FirstOrder, Natural, Objective, Problem, Scheduled, Settings, Sparsify, walk
from fipray.paths.problem import anchors_and_held_out

T = TypeVar("T")
PLAIN = "plain Adam step"
PATH_STEPS, NUM_STEPS = 400, 4  # of a path, and of those that are timed together; one of these zeroes weights
SPARSITY = 0.5


@dataclass(frozen=True)
class Subject:
    """A network, and the shape of a batch of its inputs."""

    module: Callable[[], nn.Module]
    batch: tuple[int, ...]


def _vision(name: str) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        import torchvision

        return torchvision.models.get_model(name, weights=None)

    return made


def _resnet18() -> nn.Module:
    import torchvision

    return torchvision.models.resnet18(num_classes=10)


def _deit_tiny() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(224, 16, 12, 3, 192, 768)


SUBJECTS: Mapping[str, Subject] = {
    "lenet": Subject(lenet_300_100, (128, 1, 28, 28)),
    "resnet20": Subject(resnet_20, (32, 3, 32, 32)),
    "resnet18": Subject(_resnet18, (8, 3, 32, 32)),
    "resnet50": Subject(_vision("resnet50"), (8, 3, 224, 224)),
    "deit-tiny": Subject(_deit_tiny, (8, 3, 224, 224)),
    "vit-b-16": Subject(_vision("vit_b_16"), (8, 3, 224, 224)),
}


class Downwards:
    """Sum of all weights: an objective that costs as good as nothing."""

    def __init__(self) -> None:
        self._slope = torch.ones(())

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        return weights.sum()

    def gradient(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        if self._slope.shape != weights.shape:
            self._slope = torch.ones_like(weights)
        return self._slope


@dataclass(frozen=True)
class Record:
    """One row: seconds of a step, and its ratio to a plain one; peak memory in bytes above the start."""

    network: str
    num_weights: int
    batch: int
    threads: int
    what: str
    seconds: float
    ratio: float
    peak: int


def main(
    quick: Annotated[bool, typer.Option(help="One round, and no network with images of 224 pixels.")] = False,
    network: Annotated[list[str] | None, typer.Option(help=f"{', '.join(SUBJECTS)}; all by default.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of everything; --quick takes 1.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records there.")] = None,
) -> None:
    """Measure, and print the table in Markdown."""
    if unknown := sorted(set(network or ()) - set(SUBJECTS)):
        raise typer.BadParameter(f"there is no network {', '.join(unknown)}; there are: {', '.join(SUBJECTS)}")
    names = network or [name for name, one in SUBJECTS.items() if not quick or one.batch[-1] < 224]
    records: list[Record] = []
    for name in names:
        timed = alone(_timed, name, 1 if quick else rounds, threads)
        records += [replace(one, peak=alone(_peak, name, one.what, threads)) for one in timed]
        if json_file:  # after each network: what was measured is there, whatever becomes of the rest
            json_file.write_text(json.dumps([asdict(one) for one in records], indent=1) + "\n")
    print(_table(records))
    print(f"\n{threads} thread(s), torch {torch.__version__}, {platform.machine()}")


PATHS: Mapping[str, tuple[Objective, dict[str, Any]]] = {
    "FirstOrder": (Downwards(), {"stepper": FirstOrder(beta=0.1)}),
    "FirstOrder, Sparsify": (Sparsify(SPARSITY, ramp=1.0), {"stepper": FirstOrder()}),
    "FirstOrder, Adaptive": (Downwards(), {"stepper": FirstOrder(beta=0.1), "radius": Adaptive(1e-3)}),
    "Natural, 8 iterations": (Downwards(), {"stepper": Natural(iterations=8)}),
}


def _inputs(name: str) -> Tensor:
    size, *shape = SUBJECTS[name].batch
    return torch.rand(NUM_STEPS * size, *shape)


def _plain(name: str) -> Callable[[int], object]:
    """Prepare plain training steps, to be taken by their number."""
    torch.manual_seed(0)
    module, inputs = SUBJECTS[name].module().eval(), _inputs(name)
    with torch.no_grad():
        targets = torch.cat([module(some).softmax(1) for some in inputs.split(SUBJECTS[name].batch[0])])
    batches = list(zip(*(all_.split(SUBJECTS[name].batch[0]) for all_ in (inputs, targets)), strict=True))
    optimizer = torch.optim.Adam(module.parameters(), 1e-4, fused=True)

    def steps(count: int) -> None:
        for some, target in batches[:count]:
            loss = nn.functional.cross_entropy(module(some), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def _path(name: str, what: str) -> Callable[[int], object]:
    """Prepare steps of a path, to be taken by their number."""
    torch.manual_seed(0)
    inputs = _inputs(name)
    problem = Problem(SUBJECTS[name].module().eval(), inputs, inputs[:2])
    anchors, _ = anchors_and_held_out(problem)
    objective, given = PATHS[what]

    def steps(count: int) -> None:
        settings = Settings(
            num_steps=PATH_STEPS, **{"radius": Scheduled(1e-3), "batch_size": SUBJECTS[name].batch[0], **given}
        )
        for _ in walk(problem, anchors, objective, settings, until=count, overwrites=True):
            pass

    return steps


def _timed(name: str, rounds: int, threads: int) -> list[Record]:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    num_weights = sum(parameter.numel() for parameter in SUBJECTS[name].module().parameters())
    keep_freed_memory(num_weights)  # as workers do
    jobs = {PLAIN: _plain(name), **{what: _path(name, what) for what in PATHS}}
    clock = time.process_time if threads == 1 else time.perf_counter
    found: dict[str, list[float]] = {what: [] for what in jobs}
    for number in range(rounds + 1):  # the first warms up
        for what, steps in jobs.items():
            began = clock()
            steps(NUM_STEPS)
            if number:
                found[what].append((clock() - began) / NUM_STEPS)
    return [
        Record(
            name,
            num_weights,
            SUBJECTS[name].batch[0],
            threads,
            what,
            statistics.median(seconds),
            statistics.median(one / plain for one, plain in zip(seconds, found[PLAIN], strict=True)),
            0,
        )
        for what, seconds in found.items()
    ]


def _peak(name: str, what: str, threads: int) -> int:
    """Greatest memory of some steps, above that of a process with torch alone."""
    torch.set_num_threads(threads)
    _plain("lenet")(1)  # loads what torch loads when it is first needed
    before = memory_bytes("VmRSS")
    steps = _plain(name) if what == PLAIN else _path(name, what)
    keep_freed_memory(sum(parameter.numel() for parameter in SUBJECTS[name].module().parameters()))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the greatest memory so far
    steps(3)
    return memory_bytes("VmHWM") - before


def memory_bytes(what: str) -> int:
    """Bytes that Linux reports for this process."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[what].split()[0])


def alone(function: Callable[..., T], *given: object) -> T:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


def _table(records: Sequence[Record]) -> str:
    """Arrange records as a Markdown table, one row for each network and kind of step."""
    plain = {one.network: one for one in records if one.what == PLAIN}
    lines = ["| network | weights | batch | step | ms | ratio | peak MB | ratio |", "|---|---:|---:|---|" + "---:|" * 4]
    for one in records:
        memory = one.peak / max(plain[one.network].peak, 1)
        lines.append(
            f"| {one.network} | {one.num_weights:,} | {one.batch} | {one.what} | {1e3 * one.seconds:,.1f} | "
            f"{one.ratio:.2f} | {one.peak / 2**20:,.0f} | {memory:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
