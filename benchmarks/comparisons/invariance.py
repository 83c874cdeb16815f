"""How far an objective gets while the function stays: every stepper from one base, in the same time of one thread.

    python -m benchmarks.comparisons.invariance [--quick] [--json FILE] [--figure FILE]
        [--seconds 27] [--seed 0] [--data mnist]

LeNet-300-100. Judged is the best value of an objective on a path at a functional distance of at most 0.05, 0.1 and 0.2,
on 5,000 training inputs that are never anchors; points are measured about every half second. Where a stepper has
several settings, each column takes the best of them; the controlled path is a single path for all three.

Seconds are the process's processor time, on one thread: those of the clock on an idle machine, and fair beside other
work. Measuring is not counted, for any stepper. `ours after`: when the controlled path first had the published scheme's
best value at that distance.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.data import mnist
from experiments.networks import lenet_300_100
from experiments.training import Recipe, trained
from fipray.geometry import functional_distance
from fipray.networks import Network
from fipray.paths import (
    Adaptive,
    Batch,
    Corrected,
    FirstOrder,
    GradientDiversity,
    InputNullSpace,
    Kronecker,
    Natural,
    Objective,
    Problem,
    Published,
    RadiusControl,
    Scheduled,
    Settings,
    Stepper,
    Switch,
    Switched,
    Toward,
    walk,
)

COLUMNS = (0.05, 0.1, 0.2)
OURS = "controlled path"
PUBLISHED = "published scheme"


@dataclass(frozen=True)
class Contender:
    """A stepper with its radius control, under the name of its row; uncertainty_fraction: see `Settings`."""

    name: str
    stepper: Stepper
    radius: RadiusControl
    batch_size: int = 256
    uncertainty_fraction: float = 0.0


@dataclass(frozen=True)
class Setting:
    """An objective, and what it is measured on."""

    name: str
    objective: Objective
    problem: Problem
    anchors: Batch
    held_out: Batch

    @torch.no_grad()
    def measured(self, weights: Tensor) -> tuple[float, float]:
        """Functional distance on all held-out inputs, and the objective's value on 1,000 of them."""
        embedded = self.problem.geometry.embed(self.problem.network.outputs(weights, self.held_out.inputs))
        distance = float(functional_distance(embedded, self.held_out.reference))
        return distance, float(self.objective.value(self.problem, weights, self.held_out.first(1000)))


@dataclass
class Curve:
    """What was measured along a path: seconds, functional distances, values."""

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    num_steps: int = 0

    def best(self, column: float) -> tuple[float, float]:
        """Return the best value at a distance of at most `column`, and the seconds when it was reached."""
        rows = zip(self.values, self.seconds, self.distances, strict=True)
        return min((value, seconds) for value, seconds, distance in rows if distance <= column)

    def gains(self, column: float) -> list[float]:
        """Return the best gain so far at a distance of at most `column`, for each point."""
        within = [
            value if distance <= column else self.values[0]
            for value, distance in zip(self.values, self.distances, strict=True)
        ]
        return [self.values[0] - best for best in accumulate(within, min)]

    def reached(self, column: float, value: float) -> float | None:
        """Return the seconds after which the path first had `value` at a distance of at most `column`."""
        rows = zip(self.seconds, self.distances, self.values, strict=True)
        return next((seconds for seconds, distance, own in rows if distance <= column and own <= value), None)


def cost(setting: Setting, stepper: Stepper, radius: RadiusControl, batch_size: int, num_steps: int = 9) -> float:
    """Seconds of one step, after three that warm up."""
    began, first = time.process_time(), 0
    for point in walk(
        setting.problem,
        setting.anchors,
        setting.objective,
        Settings(stepper=stepper, radius=radius, num_steps=num_steps, batch_size=batch_size, seed=1),
    ):
        if not first and point.step >= 3:
            began, first = time.process_time(), point.step
    return (time.process_time() - began) / (num_steps - first)


def planned(setting: Setting, contender: Contender, seconds: float) -> tuple[Stepper, RadiusControl, int]:
    """Plan a contender with as many steps as fit into the seconds."""
    stepper, radius = contender.stepper, contender.radius
    each = cost(setting, stepper, Scheduled(1e-3), contender.batch_size)  # of which no step is refused
    return stepper, radius, max(10, round(seconds / each))


def walked(setting: Setting, contender: Contender, seconds: float, seed: int, every: float = 0.5) -> Curve:
    stepper, radius, num_steps = planned(
        setting, contender, 0.85 * seconds
    )  # so that a path is whole where steps get dearer
    points = walk(
        setting.problem,
        setting.anchors.uncertainty_sampled(contender.uncertainty_fraction)
        if contender.uncertainty_fraction
        else setting.anchors,
        setting.objective,
        Settings(stepper=stepper, radius=radius, num_steps=num_steps, batch_size=contender.batch_size, seed=seed),
    )
    curve = Curve(contender)

    def measure(after: float, weights: Tensor) -> None:
        distance, value = setting.measured(weights)
        curve.seconds.append(after)
        curve.distances.append(distance)
        curve.values.append(value)

    measure(0.0, setting.problem.start)
    spent, due, last = 0.0, every, setting.problem.start
    while spent < seconds:
        began = time.process_time()
        point = next(points, None)
        spent += time.process_time() - began
        if point is None:
            break
        curve.num_steps, last = point.step, point.weights
        if spent >= due:
            measure(spent, last)
            due = spent + every
    if curve.seconds[-1] < spent:
        measure(spent, last)
    return curve


def contenders(objective: str) -> list[Contender]:
    """Every stepper with its settings; the last is the controlled path."""
    diverse = objective == "diversify"
    made = [
        Contender(PUBLISHED, Published(length=0.01, penalty=penalty), Scheduled(0.01, 0.01), 200)
        for penalty in ((0.1, 10.0, 100.0) if diverse else (0.1, 100.0, 1000.0))
    ]
    made += [
        Contender("natural, adaptive", Natural(damping=3e-3), Adaptive(tolerance=tolerance), 512)
        for tolerance in (0.03, 0.06, 0.12)
    ]
    made += [
        Contender("first order, scheduled", FirstOrder(beta=beta), Scheduled(rate * 14.7), 256)
        for beta, rate in ((0.01, 5e-4), (0.01, 1e-3), (0.03, 1e-3))
    ]
    made += [
        Contender("Kronecker, adaptive", Kronecker(damping=3e-3), Adaptive(tolerance=tolerance), 256)
        for tolerance in (0.06, 0.12)
    ]
    made += [Contender("input null space", InputNullSpace(), Adaptive(tolerance=0.1), 256)]
    made += [
        Contender(
            "first order, corrected",
            Corrected(FirstOrder(beta=0.03), Natural(damping=3e-3, iterations=3)),
            Scheduled(0.015),
            256,
        )
    ]
    return [*made, ours(objective)]


def ours(objective: str) -> Contender:
    """Plan the controlled path: tight first, with uncertainty sampling, then released in three parts.

    It passes every distance on its way out, each with the best gain that it can have there.
    """
    betas = {
        "diversify": ((0.02, 0.015), (0.06, 0.1), (1.0, 4.0)),
        "toward": ((0.1, 0.1), (1.0, 2.5), (6.0, 20.0)),  # a flatter objective
    }[objective]
    first, second, third = (FirstOrder(beta, final_beta=final) for beta, final in betas)
    longest = 0.0147 if objective == "diversify" else 0.008
    return Contender(
        OURS,
        Switch(first, Switch(second, third, at=10 / 14), at=13 / 27),
        Switched(
            Scheduled(longest, 0.00147),
            Switched(Scheduled(0.0044, 0.00147), Scheduled(0.0044, 0.0044), at=10 / 14),
            at=13 / 27,
        ),
        batch_size=192,
        uncertainty_fraction=0.7,
    )


def settings(data: str, seed: int) -> list[Setting]:
    everything = mnist(data, "")
    arrays = everything.for_paths(num_held_out=5000)
    networks = [
        Network.of(
            trained(
                lenet_300_100,
                everything.train_inputs[:-5000],
                everything.train_labels[:-5000],
                Recipe("lenet_300_100", arrays.digest, num_steps=3000, seed=own_seed),
            )
        )
        for own_seed in (seed, seed + 1)
    ]
    base, other = networks[0], networks[1].weights
    made = []
    for name, objective, others in (("diversify", GradientDiversity(), ()), ("toward", Toward(), (other,))):
        problem = Problem(base, others=others)
        anchors = problem.batch(torch.from_numpy(arrays.anchors))
        made.append(Setting(name, objective, problem, anchors, problem.batch(torch.from_numpy(arrays.held_out))))
    return made


def best_of(curves: Sequence[Curve], column: float) -> tuple[float, float]:
    return min(curve.best(column) for curve in curves)


def by_name(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    names: dict[str, list[Curve]] = {}
    for curve in curves:
        names.setdefault(curve.contender.name, []).append(curve)
    return names


def records(objective: str, curves: Sequence[Curve]) -> list[dict[str, object]]:
    """One record for each stepper and column, of the best of its settings."""
    return [
        {
            "objective": objective,
            "stepper": name,
            "functional_distance": column,
            "gain": own[0].values[0] - best_of(own, column)[0],
            "value": best_of(own, column)[0],
            "seconds": best_of(own, column)[1],
        }
        for name, own in by_name(curves).items()
        for column in COLUMNS
    ]


def show(objective: str, curves: Sequence[Curve]) -> Table:
    table = Table("", *(f"<= {column}" for column in COLUMNS), "steps", "seconds", title=objective)
    names = by_name(curves)
    for name, own in names.items():
        cells = []
        for column in COLUMNS:
            value = best_of(own, column)[0]
            first = value <= min(best_of(others, column)[0] for others in names.values())
            cells.append(f"[bold]{value:.3f}[/bold]" if first else f"{value:.3f}")
        steps = ", ".join(f"{curve.num_steps:,}" for curve in own)
        table.add_row(name, *cells, steps, f"{max(curve.seconds[-1] for curve in own):.1f}")
    if PUBLISHED in names and OURS in names:
        theirs = [best_of(names[PUBLISHED], column) for column in COLUMNS]
        after = [names[OURS][0].reached(column, value) for column, (value, _) in zip(COLUMNS, theirs, strict=True)]
        cells = [
            "never" if own is None else f"{own:.1f} of {seconds:.1f} s"
            for own, (_, seconds) in zip(after, theirs, strict=True)
        ]
        table.add_section()
        table.add_row("ours after", *cells)
    return table


def draw(everything: dict[str, list[Curve]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    size = (11, 4 * len(everything))
    figure, rows = plt.subplots(len(everything), 2, figsize=size, layout="constrained", squeeze=False)
    for (objective, curves), (left, right) in zip(everything.items(), rows, strict=True):
        colours = {name: f"C{place}" for place, name in enumerate(by_name(curves))}
        labelled: set[str] = set()
        for curve in curves:
            name = curve.contender.name
            style = {"color": colours[name], "linewidth": 2.2 if name == OURS else 0.9}
            left.plot(curve.distances, curve.values, label=None if name in labelled else name, **style)
            right.plot(curve.seconds, curve.gains(0.1), **style)
            labelled.add(name)
        for column in COLUMNS:
            left.axvline(column, color="0.8", linewidth=0.8, zorder=0)
        left.set(xlim=(0, 0.3), xlabel="functional distance, held out", ylabel=objective)
        right.set(xlabel="seconds", ylabel="gain at distance 0.1 or less")
        left.legend(frameon=False, fontsize=7)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half a second for each path: within 90 seconds")
    parser.add_argument("--json", type=Path, help="write the records to this file")
    parser.add_argument("--figure", type=Path, help="draw to this file")
    parser.add_argument("--seconds", type=float, default=27.0, help="of stepping, for each path")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", choices=["mnist", "fashion"], default="mnist")
    parser.add_argument("--only", choices=["diversify", "toward"], help="one of the two objectives")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # the tails of a softmax are denormal numbers, slow on a CPU
    seconds = 0.5 if arguments.quick else arguments.seconds
    rows: list[dict[str, object]] = []
    everything: dict[str, list[Curve]] = {}
    for setting in settings(arguments.data, arguments.seed):
        if arguments.only not in (None, setting.name):
            continue
        curves = [walked(setting, contender, seconds, arguments.seed) for contender in contenders(setting.name)]
        everything[setting.name] = curves
        rows += records(setting.name, curves)
        Console().print(show(setting.name, curves))
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
        if arguments.figure:
            draw(everything, arguments.figure)


if __name__ == "__main__":
    main()
