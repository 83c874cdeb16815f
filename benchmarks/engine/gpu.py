"""What steps, attacks and ensembles cost on a GPU, beside plain training steps and loops that are written by hand.

    python -m benchmarks.engine.gpu [--quick] [--only TEXT] [--json FILE] [--device cpu]

Both sides of a row are in one precision (bfloat16 by autocast, or TF32), channels last, on one batch, with cuDNN's
choice of algorithms by trial; plain steps are those of fused Adam. They are timed in turn until the GPU has finished,
several steps at a time, after a round that warms up; the table holds medians over rounds, of the ratio too. A batch
that does not fit in memory is halved for both. Weights and inputs are random, which changes no duration. `Kronecker`,
ensembles and AutoAttack are measured on small networks alone.

- peak: most memory that tensors took during steps (torch.cuda.max_memory_allocated), and its ratio.
- busy: summed durations of kernels and copies in the time of a step; launches and waits are those of one step.
- of matmul: operations of matrix products and convolutions a second, beside those of a product of two large matrices.

Where a target is missed it ends with status 1. Without a GPU it ends with status 2, but for `--device cpu`, with which
every row runs in a tiny size: the figures are of no interest then.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.engine.activity import Operations, watched
from benchmarks.engine.cases import PRECISIONS, Case, Precision, Prepare, cases
from benchmarks.engine.clock import Clock, median_ratio
from benchmarks.engine.steps import Steps, Subject
from fipray.errors import UsageError
from fipray.networks import Compute
from fipray.networks.compute import is_out_of_memory

MOST_STEPS = 96  # of one measurement
SECONDS = {"cuda": 0.2, "cpu": 0.02}  # of one measurement, at least
HEADER = (
    "| network | batch | precision | what | ms | beside | ratio | target | inputs/s | peak, GB | ratio | busy | "
    "of matmul | launches | waits |"
)


@dataclass(frozen=True)
class Record:
    """One row; None for what was not measured. Of our side but for `plain_milliseconds`; counts are of one step."""

    network: str
    batch: int
    wanted_batch: int
    precision: str
    what: str
    beside: str
    milliseconds: float
    plain_milliseconds: float | None
    ratio: float | None
    target: str
    is_met: bool | None
    inputs_per_second: float
    peak_bytes: int | None
    peak_ratio: float | None
    busy: float | None
    teraflops: float | None
    fraction_of_matmul: float | None
    launches: float | None
    waits: float | None


def main(
    quick: Annotated[bool, typer.Option(help="One round, and few steps of AutoAttack.")] = False,
    only: Annotated[str, typer.Option(help="Rows with this in their network, precision or name.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of everything; --quick takes 1.")] = 7,
    device: Annotated[str, typer.Option(help="cuda, or cpu for tiny sizes.")] = "cuda",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records there.")] = None,
) -> None:
    """Measure, print the table in Markdown, and end with status 1 where a target is missed."""
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        print("there is no GPU here: --device cpu runs every row in a tiny size", file=sys.stderr)
        sys.exit(2)
    on_gpu = where.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
    clock, records = Clock.of(where, torch.get_num_threads()), list[Record]()
    fastest = {precision: _matmul(precision, clock) for precision in PRECISIONS}
    chosen = [one for one in cases(where, quick) if only in f"{one.network}, {one.precision}, {one.what}"]
    print(HEADER + "\n|---|---:|---|---|---:|---|---:|---:|" + "---:|" * 7)
    for case in chosen:
        try:
            record = _fitting(case, clock, 1 if quick else rounds, fastest[case.precision])
        except (UsageError, ModuleNotFoundError) as error:  # of a package that is not installed
            said = f"{case.what}: not measured: {error}"
            print(f"| {case.network} | | {case.precision} | {said} |" + " |" * 11, flush=True)
            continue
        print(_row(record), flush=True)
        records.append(record)
        if json_file:  # after each row: what was measured is there, whatever becomes of the rest
            json_file.write_text(json.dumps([asdict(one) for one in records], indent=1) + "\n")
    name = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, tiny sizes"
    rates = ", ".join(f"{1e-12 * rate:.3g} in {precision}" for precision, rate in fastest.items())
    print(f"\n{name}, torch {torch.__version__}, product of matrices: TFLOP/s {rates}")
    missed = [one for one in records if one.is_met is False]
    for one in missed:
        found = f"{one.milliseconds:.2f} ms" + (f", {one.ratio:.2f} x" if one.ratio is not None else "")
        print(f"missed: {one.network}, {one.precision}, {one.what}: {found}, aim {one.target}")
    sys.exit(1 if missed else 0)


def _matmul(precision: Precision, clock: Clock) -> float:
    """Operations a second of a product of two large matrices."""
    _set(precision)
    side = 8192 if clock.device.type == "cuda" else 256
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one = torch.randn(side, side, device=clock.device, dtype=dtype)
    (seconds,) = clock.in_turn({"": lambda: [one @ one for _ in range(10)]}, 5).values()
    return 10 * 2 * side**3 / statistics.median(seconds)


def _set(precision: Precision) -> None:
    """Set what holds for the process, and is never switched off otherwise."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    Compute(precision=precision).prepare_process()


def _fitting(case: Case, clock: Clock, rounds: int, fastest: float) -> Record:
    """Measure a row, with half the batch wherever memory runs out."""
    subject = case.subject
    while True:
        try:
            return _measured(case, subject, clock, rounds, fastest)
        except (MemoryError, RuntimeError) as error:
            size = subject.batch[0]
            if size == 1 or not (isinstance(error, MemoryError) or is_out_of_memory(error)):
                raise
            subject = subject.of(size // 2)
        _free()  # after the handler: the exception holds the frames, and these their tensors


def _measured(case: Case, subject: Subject, clock: Clock, rounds: int, fastest: float) -> Record:
    _set(case.precision)
    torch.backends.cudnn.benchmark = not case.is_long  # of which batches become smaller
    prepared = {"ours": case.ours} | ({"plain": case.plain} if case.plain else {})
    if case.is_long:
        steps = case.ours(subject)
        ours, plain, ratio, peaks, rate, activity = clock.seconds(partial(steps, 1)), None, None, {}, None, None
    else:
        peaks = {side: _peak(prepare, subject, case.least) for side, prepare in prepared.items()}
        sides = {side: prepare(subject) for side, prepare in prepared.items()}
        counts = {side: _count(steps, case.least, clock) for side, steps in sides.items()}
        found = clock.in_turn({side: partial(steps, counts[side]) for side, steps in sides.items()}, rounds)
        seconds = {side: [one / counts[side] for one in each] for side, each in found.items()}
        ours, plain, ratio = statistics.median(seconds["ours"]), None, None
        if case.plain:
            plain, ratio = statistics.median(seconds["plain"]), median_ratio(seconds["ours"], seconds["plain"])
        with Operations() as counted:
            sides["ours"](case.least)
        rate = counted.total / case.least / ours
        activity = watched(partial(sides["ours"], case.least)) if clock.device.type == "cuda" else None
    judged = clock.device.type == "cuda" and case.target is not None
    return Record(
        case.network,
        subject.batch[0],
        case.subject.batch[0],
        case.precision,
        case.what,
        case.beside,
        1e3 * ours,
        None if plain is None else 1e3 * plain,
        ratio,
        str(case.target or ""),
        case.target.is_met(1e3 * ours, ratio) if judged and case.target else None,
        subject.batch[0] / ours,
        peaks.get("ours") or None,
        peaks["ours"] / peaks["plain"] if peaks.get("plain") else None,
        min(1.0, activity.seconds / case.least / ours) if activity else None,
        None if rate is None else 1e-12 * rate,
        None if rate is None else rate / fastest,
        activity.launches / case.least if activity else None,
        activity.waits / case.least if activity else None,
    )


def _peak(prepare: Prepare, subject: Subject, num_steps: int) -> int:
    """Most bytes that tensors take during steps, all that is prepared included; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0
    _free()
    steps = prepare(subject)
    steps(1)  # with what is made once
    torch.cuda.reset_peak_memory_stats()
    steps(num_steps)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _count(steps: Steps, least: int, clock: Clock) -> int:
    """Count the steps of one measurement, a multiple of the smallest number."""
    call = partial(steps, least)
    call()  # warms up
    return least * max(1, min(MOST_STEPS // least, int(SECONDS[clock.device.type] / clock.seconds(call))))


def _row(one: Record) -> str:
    """Arrange a record as a row of the table."""
    batch = f"{one.batch}" + (f" (of {one.wanted_batch}, halved)" if one.batch < one.wanted_batch else "")
    cells: Sequence[str] = (
        *(one.network, batch, one.precision, one.what, f"{one.milliseconds:,.2f}"),
        f"{one.beside}, {one.plain_milliseconds:,.2f}" if one.plain_milliseconds is not None else "",
        *(_shown(one.ratio, ".2f"), one.target, f"{one.inputs_per_second:,.0f}"),
        _shown(None if one.peak_bytes is None else one.peak_bytes / 1e9, ".2f"),
        *(_shown(one.peak_ratio, ".2f"), _shown(one.busy, ".0%"), _shown(one.fraction_of_matmul, ".1%")),
        *(_shown(one.launches, ".0f"), _shown(one.waits, ".1f")),
    )
    return "| " + " | ".join(cells) + " |"


def _shown(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)


if __name__ == "__main__":
    typer.run(main)
