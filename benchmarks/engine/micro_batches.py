"""What micro-batches save in memory and cost in time, and that they change no gradient.

    python -m benchmarks.engine.micro_batches [--network resnet20] [--parts 8] [--rounds N]

The slope of a first-order step and that of adversarial distillation on one batch, in one pass and in several; the
difference relative to the largest entry. Each peak of memory is that of a process of its own, above what it held before
the slope. Weights and inputs are random.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

import fipray as fip
from benchmarks.engine.sizes import alone, memory_bytes
from benchmarks.engine.steps import SUBJECTS
from fipray.paths import Problem
from fipray.paths.stepper import Situation
from fipray.paths.steppers.modes import EvaluationMode

BATCHES: Mapping[str, int] = {"lenet": 4096, "resnet20": 256, "resnet18": 256, "resnet50": 16, "deit-tiny": 16}
OBJECTIVES: Mapping[str, fip.objectives.Objective] = {
    "functional distance": fip.objectives.RandomWalk(),
    "adversarial distillation": fip.objectives.AdversarialDistillation(
        fip.objectives.Adversary(fip.ThreatModel("linf", 0.01), num_steps=2)
    ),
}


def main(
    network: Annotated[list[str] | None, typer.Option(help=f"{', '.join(BATCHES)}; resnet20 by default.")] = None,
    parts: Annotated[int, typer.Option(min=2, help="Passes into which a batch is divided.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of time.")] = 3,
) -> None:
    """Measure, and print the table in Markdown."""
    print("| network | batch | slope | difference | time, 1 pass | ratio | peak, 1 pass | ratio |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for name in network or ("resnet20",):
        for what in OBJECTIVES:
            difference, seconds, ratio = alone(_timed, name, what, parts, rounds)
            whole, divided = (alone(_peak, name, what, number) for number in (1, parts))
            print(
                f"| {name} | {BATCHES[name]} | {what} | {difference:.1e} | {1e3 * seconds:,.0f} ms | {ratio:.2f} | "
                f"{whole / 2**20:,.0f} MB | {f'{divided / whole:.2f}' if whole else '-'} |",
                flush=True,
            )
    print(f"\n{parts} passes, 1 thread, torch {torch.__version__}, {platform.machine()}")


def _slope(name: str, what: str, parts: int) -> Callable[[], Tensor]:
    """Prepare the slope of a first-order step at weights beside the start's."""
    torch.manual_seed(0)
    size, (_, *shape) = BATCHES[name], SUBJECTS[name].batch
    compute = fip.Compute(micro_batch=None if parts == 1 else -(-size // parts))
    inputs = torch.rand(size, *shape)
    problem = Problem(SUBJECTS[name].module().eval(), inputs, inputs[:2], compute=compute)
    assert problem.anchors is not None
    weights = problem.start + 1e-3 * torch.randn(len(problem.start), generator=torch.Generator().manual_seed(1))
    situation = Situation(problem, OBJECTIVES[what], weights, problem.anchors, radius=1.0)
    stepper = fip.steppers.FirstOrder(beta=1.0)

    def slope() -> Tensor:
        pieces, pull = stepper._slopes(situation, EvaluationMode(problem.network, weights))
        return torch.cat(pieces) if pull is None else torch.cat(pieces) + stepper.beta * pull

    return slope


def _timed(name: str, what: str, parts: int, rounds: int) -> tuple[float, float, float]:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    slopes = [_slope(name, what, number) for number in (1, parts)]
    found = [slope() for slope in slopes]
    difference = float((found[0] - found[1]).abs().max() / found[0].abs().max())
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for slope, own in zip(slopes, seconds, strict=True):
            began = time.process_time()
            slope()
            own.append(time.process_time() - began)
    ratio = statistics.median(divided / whole for whole, divided in zip(*seconds, strict=True))
    return difference, statistics.median(seconds[0]), ratio


def _peak(name: str, what: str, parts: int) -> int:
    torch.set_num_threads(1)
    _slope("lenet", what, 8)()  # loads what torch loads when it is first needed
    slope = _slope(name, what, parts)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the greatest memory so far
    before = memory_bytes("VmRSS")
    slope()
    return memory_bytes("VmHWM") - before


if __name__ == "__main__":
    typer.run(main)
