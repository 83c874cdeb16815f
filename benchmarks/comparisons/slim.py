"""Sparsity that hardware and plain modules can use: 2:4, and whole channels left out of a smaller dense module.

    python -m benchmarks.comparisons.slim [--seconds 60] [--seeds 0] [--quick] [--json FILE]

LeNet-300-100 on MNIST to 2:4 and with 75 % of its neurons gone, ResNet-20 on a part of CIFAR-10 to 2:4 and with 50 % of
the channels gone that can go (the inner ones of each block), each on one path of as many processor seconds, from
unlabelled inputs. A smaller module is written to a file, made again of it, checked against the one with zeros, and
timed beside the dense one: batch 256, one thread, medians of 20 alternating passes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fipray as fip
from benchmarks.comparisons.pruners import SUBJECTS, Subject, Task, anchors_of, path
from benchmarks.comparisons.pruning import outputs
from experiments import pruning

Record = dict[str, Any]
PATTERNS: dict[str, dict[str, tuple[fip.paths.Pattern, float]]] = {
    "lenet-mnist": {"2:4": (fip.sparsity.SemiStructured(), 0.5), "75 % of neurons": (fip.sparsity.Structured(), 0.75)},
    "resnet20": {
        "2:4": (fip.sparsity.SemiStructured(), 0.5),
        "50 % of inner channels": (fip.sparsity.Structured(), 0.5),
    },
}


def accuracy(module: nn.Module, subject: Subject) -> float:
    return float((outputs(module, subject.test_inputs).argmax(1) == subject.test_labels).double().mean())


@torch.no_grad()
def seconds_of(modules: dict[str, nn.Module], inputs: Tensor, repeats: int) -> dict[str, float]:
    """Median seconds of a pass through each, one after the other in turn."""
    found: dict[str, list[float]] = {name: [] for name in modules}
    for number in range(repeats + 2):
        for name, module in modules.items():
            began = time.perf_counter()
            module(inputs)
            if number >= 2:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def measured(subject: Subject, name: str, seconds: float, seed: int) -> Record:
    pattern, sparsity = PATTERNS[name.partition(": ")[0]][name.partition(": ")[2]]
    task = Task(subject, sparsity, seconds, seed)
    spec = pruning.sparse_path((sparsity,), subject.settings.ours, pattern=pattern, seed=seed)
    pruned, spent = path(task, spec, anchors_of(task))
    network = fip.Network.of(pruned)
    sizes = fip.networks.footprint_of(network, network.weights, subject.test_inputs)
    record: Record = {
        "network": subject.network,
        "pattern": name.partition(": ")[2],
        "seed": seed,
        "seconds": spent,
        "base_accuracy": accuracy(subject.base, subject),
        "clean_accuracy": accuracy(pruned, subject),
        "sparsity": 1 - sizes.non_zeros / sizes.num_weights,
        "bytes_dense": sizes.bytes_dense,
        "bytes_2_4": sizes.bytes_2_4,
        "multiply_adds": sizes.multiply_adds,
    }
    small = fip.networks.slimmed(network, network.weights)
    if sum(part.numel() for part in small.parameters()) == network.num_weights:
        return record
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "small.safetensors")
        save_file(small.state_dict(), file)
        again = fip.networks.fitted(subject.base, load_file(file)).eval()
        record["bytes_small"] = os.path.getsize(file)
    apart = (outputs(again, subject.test_inputs) - outputs(pruned, subject.test_inputs)).abs().max()
    times = seconds_of({"dense": subject.base, "small": again}, subject.inputs[:256], 20)
    of_small = fip.Network.of(again)
    return record | {
        "largest_difference": float(apart),
        "multiply_adds_small": fip.networks.footprint_of(of_small, of_small.weights, subject.test_inputs).multiply_adds,
        "dense_ms": 1e3 * times["dense"],
        "small_ms": 1e3 * times["small"],
        "speed_up": times["dense"] / times["small"],
    }


def show(console: Console, records: list[Record]) -> None:
    table = Table(title="seconds of one thread; accuracy in %; passes of 256 inputs", box=None)
    for column in (
        "network",
        "pattern",
        "seed",
        "s",
        "base",
        "pruned",
        "kB dense",
        "kB 2:4",
        "kB small",
        "M multiply-adds",
    ):
        table.add_column(column, justify="right")
    for column in ("ms dense", "ms small", "speed-up"):
        table.add_column(column, justify="right")
    for row in records:
        small = "small_ms" in row
        adds = f"{row['multiply_adds'] / 1e6:.2f}"
        table.add_row(
            *(row["network"], row["pattern"], str(row["seed"]), f"{row['seconds']:.0f}"),
            *(f"{100 * row[name]:.2f}" for name in ("base_accuracy", "clean_accuracy")),
            f"{row['bytes_dense'] / 1e3:.0f}",
            f"{row['bytes_2_4'] / 1e3:.0f}" if row["bytes_2_4"] else "",
            f"{row['bytes_small'] / 1e3:.0f}" if small else "",
            f"{adds} to {row['multiply_adds_small'] / 1e6:.2f}" if small else adds,
            *(
                (f"{row['dense_ms']:.1f}", f"{row['small_ms']:.1f}", f"{row['speed_up']:.2f}")
                if small
                else ("", "", "")
            ),
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="")
    parser.add_argument("--seconds", type=float, default=60, help="of compute for each path")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true", help="4 s, one seed, LeNet alone")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.seeds = 4.0, args.seeds[:1]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console(width=None if sys.stdout.isatty() else 180)
    records: list[Record] = []
    for subject_name, patterns in PATTERNS.items():
        if args.quick and subject_name != "lenet-mnist":
            continue
        for seed in args.seeds:
            subject = SUBJECTS[subject_name](args.data_root, seed)
            for pattern in patterns:
                records.append(measured(subject, f"{subject_name}: {pattern}", args.seconds, seed))
                console.print(records[-1])
    show(console, records)
    if args.json:
        args.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
