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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer

from benchmarks.engine.clock import Clock, median_ratio
from benchmarks.engine.steps import NUM_STEPS, PATHS, SUBJECTS, Steps, Training, path_steps
from fipray.execution.memory import keep_freed_memory

T = TypeVar("T")
PLAIN = "plain Adam step"


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


def _steps(name: str, what: str) -> Steps:
    """Prepare plain training steps, or those of a kind of path."""
    subject = SUBJECTS[name]
    return Training.of(subject).steps() if what == PLAIN else path_steps(subject, PATHS[what])


def _timed(name: str, rounds: int, threads: int) -> list[Record]:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    num_weights = sum(parameter.numel() for parameter in SUBJECTS[name].module().parameters())
    keep_freed_memory(num_weights)  # as workers do
    jobs = {what: _steps(name, what) for what in (PLAIN, *PATHS)}
    calls = {what: partial(steps, NUM_STEPS) for what, steps in jobs.items()}
    found = Clock.of(torch.device("cpu"), threads).in_turn(calls, rounds)
    return [
        Record(
            name,
            num_weights,
            SUBJECTS[name].batch[0],
            threads,
            what,
            statistics.median(seconds) / NUM_STEPS,
            median_ratio(seconds, found[PLAIN]),
            0,
        )
        for what, seconds in found.items()
    ]


def _peak(name: str, what: str, threads: int) -> int:
    """Greatest memory of some steps, above that of a process with torch alone."""
    torch.set_num_threads(threads)
    _steps("lenet", PLAIN)(1)  # loads what torch loads when it is first needed
    before = memory_bytes("VmRSS")
    steps = _steps(name, what)
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
