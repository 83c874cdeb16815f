"""Two networks that were trained apart, connected: LeNet-300-100 on MNIST, from two seeds.

    python -m benchmarks.comparisons.connect [--quick] [--json FILE] [--figure FILE]

Straight lines and functionally invariant paths between them, with the second network as it is and with its neurons
aligned to the first's. Judged is the whole polyline, every accepted point and one weight vector or more between two of
them, by cross-entropy and accuracy on the 10,000 test images (the first 2,000 with --quick). One thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fipray as fip
from experiments.data import mnist
from experiments.networks import lenet_300_100
from experiments.training import Recipe, trained

Record = dict[str, str | float]


class Evaluator:
    """Cross-entropies and accuracies on test inputs; each weight vector is judged once."""

    def __init__(self, network: fip.Network, inputs: Tensor, labels: Tensor) -> None:
        self.network, self.inputs, self.labels = network, inputs, labels
        self.accuracies: list[float] = []

    def loss(self, weights: Tensor) -> float:
        outputs = self.network.outputs(weights, self.inputs)
        self.accuracies.append(float((outputs.argmax(1) == self.labels).double().mean()))
        return float(torch.nn.functional.cross_entropy(outputs, self.labels))

    def along(self, points: Sequence[Tensor], num_between: int) -> tuple[fip.paths.LossProfile, float]:
        """Return the loss profile of a polyline and the least accuracy on it."""
        self.accuracies.clear()
        profile = fip.paths.loss_profile(points, self.loss, num_between=num_between)
        return profile, min(self.accuracies)


def measure(quick: bool) -> tuple[list[Record], dict[str, fip.paths.LossProfile]]:
    data = mnist("mnist", "")
    arrays = data.for_paths(num_held_out=5000)
    bases = [
        fip.Network.of(
            trained(
                lenet_300_100,
                data.train_inputs[:-5000],
                data.train_labels[:-5000],
                Recipe("lenet_300_100", arrays.digest, num_steps=3000, seed=seed),
            )
        )
        for seed in (0, 1)
    ]
    network, other = bases[0], bases[1].weights
    anchors, held_out = torch.from_numpy(arrays.anchors), torch.from_numpy(arrays.held_out)
    few = slice(2000 if quick else None)
    judge = Evaluator(network, torch.from_numpy(data.test_inputs[few]), torch.from_numpy(data.test_labels[few]))
    problem = fip.Problem(network, anchors, held_out)
    radius = fip.radii.Adaptive(initial=0.02, tolerance=0.1875)
    walked = fip.Settings(radius=radius, num_steps=25, batch_size=512) if quick else None
    allowed: dict[str, Any] = {"allowed_distance": 0.25, "num_rounds": 4} if quick else {}
    records: list[Record] = []
    profiles: dict[str, fip.paths.LossProfile] = {}

    def record(what: str, make: Callable[[], Sequence[Tensor]], num_between: int = 1) -> Sequence[Tensor]:
        began = time.perf_counter()
        points = make()
        seconds = time.perf_counter() - began
        profile, accuracy = judge.along(points, num_between)
        profiles[what] = profile
        length = sum(float(torch.linalg.vector_norm(b - a)) for a, b in pairwise(points))
        records.append(
            {
                "network": "lenet_300_100",
                "data": "mnist",
                "what": what,
                "max_loss": profile.maximum,
                "min_accuracy": accuracy,
                "barrier": profile.barrier,
                "length": length,
                "seconds": seconds,
            }
        )
        return points

    def connection(end: Tensor) -> Sequence[Tensor]:
        return fip.connect(problem, end, walked, **allowed).points

    record("straight line", lambda: (network.weights, other), 49)
    _, near = record(
        "straight line, aligned",
        lambda: (network.weights, fip.paths.aligned(network, network.weights, other, anchors[:2000])),
        49,
    )
    record("path", lambda: connection(other))
    record("path, aligned", lambda: connection(near))
    return records, profiles


def show(records: Sequence[Record]) -> Table:
    table = Table("", "largest loss", "least accuracy", "barrier", "share", "length", "seconds", box=None)
    table.columns[0].no_wrap = True
    for row in records:
        fraction = float(row["barrier"]) / float(records[0]["barrier"])
        table.add_row(
            str(row["what"]),
            f"{row['max_loss']:.4f}",
            f"{100 * float(row['min_accuracy']):.2f} %",
            f"{row['barrier']:.4f}",
            f"{fraction:.3f}",
            f"{row['length']:.1f}",
            f"{row['seconds']:.1f}",
        )
    return table


def draw(profiles: dict[str, fip.paths.LossProfile], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for what, profile in profiles.items():
        axes.plot(profile.places, profile.losses, label=what)
    axes.set(xlabel="share of the way", ylabel="cross-entropy, test images", yscale="log", xlim=(0, 1))
    axes.legend(frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, fewer test images: within a minute")
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--figure", type=Path, default=Path("results/connect.png"), help="draw to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # the tails of a softmax are denormal numbers, slow on a CPU
    records, profiles = measure(arguments.quick)
    Console().print(show(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=2) + "\n")
    draw(profiles, arguments.figure)
    print(f"figure: {arguments.figure}")


if __name__ == "__main__":
    main()
