"""How far a direction can be made invariant on 10,000 anchors at once: LeNet-300-100 on MNIST, Fisher-Rao.

    python -m benchmarks.engine.projections [--quick] [--json FILE] [--figure FILE]

At the start and at a point of a path, for a random direction and for an objective's gradient: the residual
|J v| / |J v0| on the anchors and on held-out inputs after no projection, one on a single batch, `NullSpace`, and, with
as many CPU seconds as that took and stopped where they reach the target, block-by-block sweeps (Kaczmarz) and plain
conjugate gradients (CGLS). (The gradient of GradientDiversity is 0 at the start, so it is taken away from it.) One
thread unless OMP_NUM_THREADS says otherwise; compare cpu_seconds where others use the machine. peak_bytes is how far
the resident set rose above what it was before, sampled every 5 ms, free memory given back to the system first.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

import fipray as fip
from experiments import networks
from experiments.data import mnist
from experiments.training import Recipe, trained
from fipray.geometry import FisherRao, Metric, NullSpace, Sweeps
from fipray.networks import Network
from fipray.paths import Problem
from fipray.paths.calls import gradient

GEOMETRY = FisherRao()
TARGET = 1e-3


def plain_sweeps(network: Network, weights: Tensor, inputs: Tensor, vector: Tensor, block: int) -> Iterator[Tensor]:
    """Sweeps and nothing else; the vector after each."""
    right = NullSpace(network, weights, inputs, GEOMETRY).j(vector)
    sweep, solution = Sweeps(network, weights, inputs, GEOMETRY, block=block), torch.zeros_like(vector)
    while True:
        solution = sweep(solution, right)
        yield vector - solution


def least_squares(network: Network, weights: Tensor, inputs: Tensor, vector: Tensor, every: int) -> Iterator[Tensor]:
    """CGLS (Hestenes & Stiefel 1952) on |J v|: what acceleration alone gives; the vector after each `every` steps."""
    space = NullSpace(network, weights, inputs, GEOMETRY)
    residual = space.j(vector)
    slope = space.jt(residual)
    direction, square = slope, slope.square().sum()
    while True:
        for _ in range(every):
            image = space.j(direction)
            length = square / image.square().sum()
            vector, residual = vector - length * direction, residual - length * image
            slope = space.jt(residual)
            before, square = square, slope.square().sum()
            direction = slope + (square / before) * direction
        yield vector


class Peak:
    """The highest resident set while it is entered, above what it was before; `bytes` is None off Linux."""

    def __enter__(self) -> Peak:
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            self._before: int | None = self._resident()
        except (OSError, AttributeError):
            self._before = None
        self.bytes: int | None = None if self._before is None else 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while self._before is not None and not self._done.wait(0.005):
            self.bytes = max(self.bytes or 0, self._resident() - self._before)

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Case:
    """A point, a direction, the inputs it is judged on; `records` grow by one for each method."""

    def __init__(self, network: Network, weights: Tensor, name: str, vector: Tensor, held_out: Tensor) -> None:
        self.network, self.weights, self.name, self.vector = network, weights, name, vector
        self.held_out = held_out
        self.records: list[dict[str, object]] = []

    def residual(self, vector: Tensor, inputs: Tensor) -> float:
        squares = [0.0, 0.0]
        for part in inputs.split(1000):
            metric = Metric(self.network, self.weights, part, GEOMETRY)
            for place, one in enumerate((vector, self.vector)):
                squares[place] += float(metric.j(one).double().square().sum())
        return (squares[0] / squares[1]) ** 0.5

    def measure(
        self, method: str, block: int, anchors: Tensor, make: Callable[[], tuple[Tensor, int]]
    ) -> dict[str, object]:
        with Peak() as peak:
            began, cpu = time.perf_counter(), time.process_time()
            vector, sweeps = make()
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        return self.record(method, block, anchors, vector, sweeps, seconds, cpu, peak.bytes)

    def iterate(
        self, method: str, block: int, anchors: Tensor, states: Iterator[Tensor], every: int, budget: float
    ) -> dict[str, object]:
        """Goes on until the target is reached or the CPU seconds are spent; judging the states is not counted."""
        sweeps, seconds, cpu, curve, highest = 0, 0.0, 0.0, [], 0
        while True:
            with Peak() as peak:
                began, cpu_began = time.perf_counter(), time.process_time()
                vector = next(states)
                seconds, cpu = seconds + time.perf_counter() - began, cpu + time.process_time() - cpu_began
            highest, sweeps = max(highest, peak.bytes or 0), sweeps + every
            curve.append((cpu, self.residual(vector, anchors)))
            if curve[-1][1] <= TARGET or cpu > budget:
                break
        record = self.record(method, block, anchors, vector, sweeps, seconds, cpu, highest or None)
        return record | {"curve": curve}

    def record(
        self,
        method: str,
        block: int,
        anchors: Tensor,
        vector: Tensor,
        sweeps: int,
        seconds: float,
        cpu_seconds: float,
        peak_bytes: int | None,
    ) -> dict[str, object]:
        on_anchors, on_held_out = self.residual(vector, anchors), self.residual(vector, self.held_out)
        kept = float(torch.linalg.vector_norm(vector) / torch.linalg.vector_norm(self.vector))
        memory = "-" if peak_bytes is None else f"{peak_bytes / 2**20:.0f}"
        print(
            f"{self.name:20} {method:20} {sweeps:6} {on_anchors:9.2e} {on_held_out:9.2e} {kept:7.3f}"
            f" {seconds:8.1f} {cpu_seconds:8.1f} {memory:>6}",
            flush=True,
        )
        self.records.append(
            {
                "network": "lenet_300_100",
                "data": "mnist",
                "case": self.name,
                "method": method,
                "block": block,
                "num_anchors": len(anchors),
                "sweeps": sweeps,
                "residual_anchors": on_anchors,
                "residual_held_out": on_held_out,
                "kept": kept,
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "peak_bytes": peak_bytes,
            }
        )
        return self.records[-1]


Curves = dict[str, list[tuple[float, float]]]


def compare(case: Case, anchors: Tensor, *, iterations: int, with_curve: bool) -> Curves:
    """One row a method; how the residual falls with CPU seconds."""
    network, weights, vector = case.network, case.weights, case.vector

    def projected(inputs: Tensor, limit: int) -> tuple[Tensor, int]:
        space = NullSpace(network, weights, inputs, GEOMETRY)
        found = space.project(vector, iterations=limit, tolerance=TARGET)
        return found.vector, found.iterations

    case.measure("none", 0, anchors, lambda: (vector, 0))
    case.measure("one batch of 512", 512, anchors, lambda: projected(anchors[:512], iterations))
    record = case.measure("null space", 1, anchors, lambda: projected(anchors, iterations))
    budget, sweeps = float(str(record["cpu_seconds"])), int(str(record["sweeps"]))
    swept = case.iterate("plain sweeps", 64, anchors, plain_sweeps(network, weights, anchors, vector, 64), 1, budget)
    descended = case.iterate(
        "conjugate gradients", 1000, anchors, least_squares(network, weights, anchors, vector, 10), 10, budget
    )
    curves: Curves = {"plain sweeps": swept["curve"], "conjugate gradients": descended["curve"]}  # type: ignore[dict-item]
    if with_curve:
        points = [(budget, float(str(record["residual_anchors"])))]
        for count in (sweeps // 2, sweeps // 4, sweeps // 8):
            cpu = time.process_time()
            state, _ = projected(anchors, max(1, count))
            points.insert(0, (time.process_time() - cpu, case.residual(state, anchors)))
        curves["null space"] = points
    return curves


def draw(curves: Curves, title: str, file: Path) -> None:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5, 3.5), layout="constrained")
    axes = drawing.subplots()
    for label, points in curves.items():
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, label=label)
    axes.axhline(TARGET, color="grey", linewidth=0.8)
    axes.set(yscale="log", xlabel="CPU seconds, one thread", ylabel="|J v| / |J v0| on the anchors", title=title)
    axes.legend(fontsize=8)
    drawing.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2,000 anchors, one case: within a minute")
    parser.add_argument("--json", type=Path, help="write the records here")
    parser.add_argument("--figure", type=Path, help="draw how the residual falls here")
    chosen = parser.parse_args()

    everything = mnist("mnist", "")
    recipe = Recipe("lenet_300_100", everything.for_paths(num_held_out=5000).digest, num_steps=3000, seed=0)
    inputs, labels = everything.train_inputs[:-5000], everything.train_labels[:-5000]
    network = Network.of(trained(networks.lenet_300_100, inputs, labels, recipe))
    anchors = torch.from_numpy(everything.train_inputs[: 2000 if chosen.quick else 10_000])
    held_out = torch.from_numpy(everything.train_inputs[-5000:])
    path = fip.trace(
        fip.Problem(network, anchors=anchors, held_out=held_out[:1000]),
        fip.objectives.GradientDiversity(),
        fip.Settings(stepper=fip.steppers.Natural(), radius=fip.radii.Adaptive(tolerance=0.15), num_steps=10),
    )
    iterations = 200 if chosen.quick else 400
    print(f"{len(anchors)} anchors, {torch.get_num_threads()} thread(s); target {TARGET:g}")
    columns = "sweeps   anchors  held out    kept  seconds      CPU    MiB"
    print(f"{'case':20} {'method':20} {columns}")
    random = torch.randn(network.num_weights, generator=torch.Generator().manual_seed(0))
    problem = Problem(network, geometry=GEOMETRY)
    away = path.end.weights
    slope = gradient(fip.objectives.GradientDiversity(), problem, away, problem.batch(anchors[:1000]))
    cases = [
        Case(network, network.weights, "start, random", random, held_out),
        Case(network, away, "10 steps, gradient", slope, held_out),
        Case(network, away, "10 steps, random", random, held_out),
    ][: 2 if chosen.quick else 3]
    curves = [
        compare(case, anchors, iterations=iterations, with_curve=chosen.figure is not None and case is cases[0])
        for case in cases
    ]
    if chosen.json:
        chosen.json.write_text(json.dumps([record for case in cases for record in case.records], indent=1))
    if chosen.figure:
        draw(curves[0], f"{cases[0].name}, {len(anchors):,} anchors", chosen.figure)


if __name__ == "__main__":
    main()
