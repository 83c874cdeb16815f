"""Pruning along paths, without labels, and what others propose, with them, at equal compute.

    python -m benchmarks.comparisons.pruning
        [--subject lenet-mnist|lenet-fashion|lenet5-mnist|resnet20|resnet20-cifar10|mlpnet] [--seconds 15]
                                 [--sparsities .95 .98 .99] [--seeds 0 1] [--only TEXT|=NAME ...] [--quick]
                                 [--json FILE] [--figure FILE]

Every contender begins at the same base network, may use as many processor seconds on one thread, and leaves the same
fraction of all parameters that is not zero. "path: recipe" is `fip.recipes.prune` with no setting but the budget, of
which its trial is a part; "gradual magnitude, distillation" has no labels either, and is tuned beforehand for free
(learning rate and temperature, on held-out inputs). Clean accuracy is on all test images, robust accuracy (PGD-20,
linf) on the first 500; the functional distance from the base, in radians, on held-out inputs, on which nothing is
trained. With --json, what the file already holds is not done again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fipray as fip
from benchmarks.comparisons import resumed
from benchmarks.comparisons.pruners import CONTENDERS, SUBJECTS, Subject, Task, base
from benchmarks.comparisons.resumed import Record
from fipray.geometry import functional_distance

NUM_ATTACKED = 500


@torch.no_grad()
def outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([module(part) for part in inputs.split(500)])


def judged(module: nn.Module, subject: Subject, seed: int) -> Record:
    """Measures of a network in evaluation mode."""
    embed = fip.FisherRao().embed
    distance = functional_distance(
        embed(outputs(module, subject.held_out)), embed(outputs(subject.base, subject.held_out))
    )
    network = fip.Network.of(module)
    attack = fip.attacks.PGD(num_steps=20)
    robust = fip.robustness.evaluate(
        lambda inputs: network(network.weights, inputs),
        subject.test_inputs[:NUM_ATTACKED],
        subject.test_labels[:NUM_ATTACKED],
        fip.ThreatModel("linf", subject.settings.epsilon),
        [attack],
        torch.Generator().manual_seed(seed),
    )
    predicted = outputs(module, subject.test_inputs).argmax(1)
    return {
        "zeros": float((network.weights == 0).double().mean()),
        "clean_accuracy": float((predicted == subject.test_labels).double().mean()),
        "functional_distance": float(distance),
        "epsilon": subject.settings.epsilon,
        "robust_accuracy": robust.robust_accuracy(attack.name),
    }


def show(console: Console, records: list[Record], title: str) -> None:
    for sparsity, part in pd.DataFrame(records).groupby("sparsity"):
        table = Table(title=f"{title}, {100 * float(sparsity):g} % zeros; means and deviations over seeds")
        table.add_column("method")
        for column in ("seeds", "s", "clean, %", "distance, rad", "robust, %"):
            table.add_column(column, justify="right")
        for method, rows in part.groupby("method", sort=False):
            table.add_row(
                str(method),
                str(len(rows)),
                f"{rows['seconds'].mean():.1f}",
                _mean_and_spread(100 * rows["clean_accuracy"], 2),
                _mean_and_spread(rows["functional_distance"], 3),
                _mean_and_spread(100 * rows["robust_accuracy"], 1),
            )
        console.print(table)


def _mean_and_spread(values: pd.Series[float], digits: int) -> str:
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def draw(records: list[Record], title: str) -> Figure:
    """Plot accuracy over sparsity, with a band between the least and the best seed of each method.

    Methods far below the others are cut off.
    """
    frame = pd.DataFrame(records)
    bases, frame = frame[frame["method"] == "base"], frame[frame["method"] != "base"]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for method, rows in frame.groupby("method", sort=False):
        found = 100 * rows.groupby("sparsity")["clean_accuracy"].agg(["mean", "min", "max"])
        left = 1 - found.index.to_numpy()
        (line,) = axes.plot(left, found["mean"], marker="o", markersize=4, label=method)
        axes.fill_between(left, found["min"], found["max"], color=line.get_color(), alpha=0.2, linewidth=0)
    best = 100 * frame["clean_accuracy"].max()
    if len(bases):
        reference = 100 * bases["clean_accuracy"].mean()
        axes.axhline(reference, color="0.5", linestyle="--", linewidth=1, label="base")
        best = max(best, reference)
    means = 100 * frame.groupby(["method", "sparsity"])["clean_accuracy"].mean()
    seen = means[means > best - 15]
    lowest = (seen.min() if len(seen) else best) - 0.5
    axes.set_ylim(lowest, best + 0.05 * (best - lowest))
    sparsities = sorted(frame["sparsity"].unique())
    axes.set_xscale("log")
    axes.invert_xaxis()
    axes.xaxis.set_major_locator(FixedLocator([1 - s for s in sparsities]))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{100 * s:g}" for s in sparsities]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("zeros, % of all parameters")
    axes.set_ylabel("clean accuracy, %")
    axes.set_title(title)
    axes.legend(fontsize=8, loc="lower left")
    return figure


def asked(text: str, name: str) -> bool:
    return name == text[1:] if text.startswith("=") else text in name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", default="lenet-mnist", choices=sorted(SUBJECTS))
    parser.add_argument("--data-root", default="")
    parser.add_argument("--seconds", type=float, default=15, help="of compute for each contender")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.95, 0.98, 0.99])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--only", nargs="+", default=[], help="contenders whose names hold one of these texts, or are it: =NAME"
    )
    parser.add_argument("--quick", action="store_true", help="2 s, one sparsity, one seed")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.seconds, args.sparsities, args.seeds = 2.0, args.sparsities[:1], args.seeds[:1]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console(width=None if sys.stdout.isatty() else 200)
    records = resumed.read(args.json, parser)
    for seed in args.seeds:
        subject = SUBJECTS[args.subject](args.data_root, seed)
        contenders = {
            name: make
            for name, make in CONTENDERS.items()
            if not args.only or any(asked(text, name) for text in args.only)
        }
        wanted = [("base", base, 0.0), *((name, make, s) for s in args.sparsities for name, make in contenders.items())]
        for name, make, sparsity in wanted:
            key = {
                "subject": args.subject,
                "network": subject.network,
                "data": subject.data,
                "method": name,
                "sparsity": sparsity,
                "seed": seed,
                "budget": args.seconds,
            }
            if any(key.items() <= record.items() for record in records):
                continue
            module, seconds = make(Task(subject, sparsity, args.seconds, seed))
            record = {**key, "seconds": seconds, **judged(module, subject, seed)}
            records.append(record)
            console.print(
                f"seed {seed}, {100 * sparsity:g} %, {name}: {seconds:.1f} s, "
                f"clean {100 * record['clean_accuracy']:.2f}, distance {record['functional_distance']:.3f}, "
                f"robust {100 * record['robust_accuracy']:.1f}"
            )
            resumed.write(records, args.json)
    shown = [r for r in records if r["subject"] == args.subject and r["budget"] == args.seconds]
    title = f"{args.subject}, {args.seconds:g} s"
    show(console, shown, title)
    if args.figure:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(shown, title).savefig(args.figure, dpi=150)


if __name__ == "__main__":
    main()
