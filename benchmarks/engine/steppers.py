"""Cost of one step of each stepper, by size of the network, as a table for `docs/steppers.md`.

    python -m benchmarks.engine.steppers [--quick] [--network vit] [--json FILE]

Milliseconds and gradients of the same batch, medians over rounds, as in `python -m benchmarks.engine`, whose clock and
steps these are. The objective costs nothing, so that what is measured is the stepper. Weights of the vision
transformer are random, which changes no duration.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torchvision.models import VisionTransformer

from benchmarks.engine.__main__ import GRADIENT, ITERATION, MATMUL, NATURAL, Job, works_of
from benchmarks.engine.clock import Clock
from benchmarks.engine.subjects import SUBJECTS, Subject

PRODUCTS = {MATMUL, ITERATION, NATURAL, "forward pass, graphs, first J v", "J v", "J^T u"}  # no steps, left out here


@dataclass(frozen=True)
class Record:
    """Cost of one step on one network; gradients: in units of one gradient of the same batch."""

    network: str
    num_weights: int
    batch: int
    threads: int
    what: str
    milliseconds: float
    gradients: float


def small_vit(_: str = "") -> Subject:
    """Vision transformer for 32 x 32 images: patches of 8 x 8, 4 blocks of width 96, 4 heads."""
    torch.manual_seed(0)
    module = VisionTransformer(32, 8, 4, 4, 96, 192, num_classes=10)
    nn.init.normal_(module.heads.head.weight, std=96**-0.5)  # of zeros, as torchvision makes it, it hides all below
    return Subject("a small ViT", module.eval(), torch.rand(512, 3, 32, 32))


NETWORKS: Mapping[str, Callable[[str], Subject]] = {**SUBJECTS, "vit": small_vit}


def main(
    quick: Annotated[bool, typer.Option(help="One round.")] = False,
    network: Annotated[list[str] | None, typer.Option(help=f"{', '.join(NETWORKS)}; all by default.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs per step.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of everything; --quick takes 1.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records there.")] = None,
) -> None:
    """Measure, and print the table in Markdown."""
    if unknown := sorted(set(network or ()) - set(NETWORKS)):
        raise typer.BadParameter(f"there is no network {', '.join(unknown)}; there are: {', '.join(NETWORKS)}")
    torch.set_num_threads(threads)
    clock = Clock.of(torch.device("cpu"), threads)
    records: list[Record] = []
    for name in network or NETWORKS:
        records += measured(NETWORKS[name](""), batch, clock, 1 if quick else rounds, threads)
        if json_file:  # after each network: what was measured is there, whatever becomes of the rest
            json_file.write_text(json.dumps([asdict(one) for one in records], indent=1) + "\n")
    print(table(records))
    print(f"\n{threads} thread(s), batch {batch}, torch {torch.__version__}, {platform.machine()}")


def measured(subject: Subject, size: int, clock: Clock, rounds: int, threads: int) -> list[Record]:
    """Measure one gradient and one step of each stepper on a network."""
    works = [job for job in works_of(subject, size, clock.device, True) if job.what not in PRODUCTS]
    _seconds(clock, works[0])  # warms up; each stepper has made a step already
    times = [[_seconds(clock, job) for job in works] for _ in range(rounds)]
    num_weights = sum(parameter.numel() for parameter in subject.module.parameters())
    assert works[0].what == GRADIENT
    return [
        Record(
            subject.name,
            num_weights,
            size,
            threads,
            job.what,
            1e3 * statistics.median(each[number] for each in times),
            statistics.median(each[number] / each[0] for each in times),
        )
        for number, job in enumerate(works)
    ]


def _seconds(clock: Clock, job: Job) -> float:
    return sum(fraction * clock.seconds(call) for fraction, call in job.parts)


def table(records: Sequence[Record]) -> str:
    """Arrange records as a Markdown table, one row per stepper and two columns per network."""
    networks = list(dict.fromkeys((one.network, one.num_weights) for one in records))
    found = {(one.network, one.what): one for one in records}
    lines = ["| step | " + " | ".join(f"{name} ({size:,}): ms | gradients" for name, size in networks) + " |"]
    lines.append("|---|" + "---:|" * 2 * len(networks))
    for what in dict.fromkeys(one.what for one in records):
        cells = [found[name, what] for name, _ in networks]
        lines.append(f"| {what} | " + " | ".join(f"{c.milliseconds:,.1f} | {c.gradients:.1f}" for c in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
