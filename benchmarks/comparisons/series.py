"""Series of tasks: chains of paths against what others propose, from one base network in the same iterations.

    python -m benchmarks.comparisons.series [--series split-mnist] [--scenarios task domain class] [--iterations 2000]
                                [--stored 100] [--seeds 0 1 2 3 4] [--only TEXT ...] [--network NAME]
                                [--quick] [--json FILE] [--figure FILE]

All learn the same tasks from the same network, which knows the first of them, with batches of 128; those that store
examples keep as many of each class. Paths see no label of an earlier task. `--only` takes contenders whose names
contain a text, or are it where it begins with "=". With --json, what the file already holds is not done again. Seconds
are processor seconds of learning on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fipray as fip
from benchmarks.baselines import series as rivals
from benchmarks.comparisons import resumed
from benchmarks.comparisons.resumed import Record
from experiments import series as along_paths
from experiments.scenarios import ScenarioName, Series
from experiments.training import Recipe, train
from fipray.geometry import KroneckerMetric
from fipray.paths import Examples, Problem, augmented

SCENARIOS = get_args(ScenarioName)
Accuracies = list[list[float]]  # [i][j]: on task j when task i had been learned; the first row is the base's


@dataclass(frozen=True, eq=False)
class Setting:
    """What every contender is given; `base` knows the first task."""

    series: Series
    base: nn.Module
    num_iterations: int
    num_stored: int
    seed: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """`memory_bytes`: of what is kept from task to task beyond the network. `seconds`: of a processor, of learning."""

    accuracies: Accuracies
    memory_bytes: int
    seconds: float


Contender = Callable[[Setting], Outcome]


def chain(setting: Setting, *, stored: bool, metric: bool = False, published: bool = False) -> Outcome:
    """Return the paths of experiments.series."""
    series, num_stored = setting.series, setting.num_stored if stored else 0
    settings = along_paths.settings_of(series, num_stored, metric=metric)
    study = along_paths.of_series(
        series, settings, num_stored=num_stored, num_iterations=setting.num_iterations, seed=setting.seed
    )
    data, network = study.data, fip.Network.of(setting.base)
    seconds, accuracies = 0.0, [judged(lambda inputs: network.outputs(network.weights, inputs), series)]
    tasks = {
        name: Examples(torch.from_numpy(task.inputs), torch.from_numpy(task.labels))
        for name, task in data.tasks.items()
    }
    remembered: list[KroneckerMetric] = []
    for number, spec in enumerate(study.paths, 1):
        began = time.process_time()
        if spec.memory:
            gone = torch.cat([torch.from_numpy(data.sets[name]) for name in spec.memory.sets])
            remembered.append(spec.memory.of(Problem(network, geometry=study.geometry), gone))
        sets = torch.cat([torch.from_numpy(data.sets[name]) for name in spec.anchors or spec.held_out])
        path = fip.trace(
            fip.Problem(
                network,
                anchors=augmented(sets, spec.augmentations),
                held_out=torch.from_numpy(data.sets[spec.held_out[0]]),
                tasks=tasks,
                memory=remembered,
            ),
            spec.objective,
            fip.Settings(
                stepper=fip.steppers.Published() if published else spec.stepper,
                radius=fip.radii.Scheduled(1, 1) if published else spec.radius,
                num_steps=spec.num_steps,
                batch_size=spec.batch_size,
                save_at=fip.SaveAt(num_points=1, solver_state=False),
                seed=spec.seed,
            ),
        )
        network = network.at(path.end.weights)
        seconds += time.process_time() - began
        accuracies.append(judged(partial(network.outputs, network.weights), series, number))
    kept = [inputs for name, inputs in data.sets.items() if name.startswith("stored ")]
    memory_bytes = sum(inputs.nbytes for inputs in kept) + sum(one.num_bytes for one in remembered)
    return Outcome(accuracies, memory_bytes, seconds)


def rival(setting: Setting, *, name: str, shifted: bool = False) -> Outcome:
    """One of benchmarks.baselines.series, on the module itself where paths see it through its heads."""
    series, module = setting.series, setting.base
    tasks, heads = [], isinstance(module, fip.networks.MultiHead)
    size = len(np.unique(next(iter(series.tasks.values())).labels))
    for number, (task_name, task) in enumerate(series.tasks.items()):
        inputs, labels = torch.from_numpy(task.inputs), torch.from_numpy(task.labels)
        inputs, labels = inputs[: -along_paths.NUM_HELD_OUT], labels[: -along_paths.NUM_HELD_OUT]
        if heads:
            inputs = inputs[:, 1:].reshape(-1, *series.image)
        tasks.append(
            rivals.Task(task_name, inputs, labels, head(number, size) if heads else rivals.task.identity, heads)
        )
    learner = rivals.LEARNERS[name](series.scenario)
    if hasattr(learner, "num_stored") and name not in ("ogd",):
        learner = replace(learner, num_stored=setting.num_stored)  # type: ignore[type-var]
    if shifted:
        learner = replace(learner, shifted=fip.augmentations.Shifted(1, max(1, series.image[-1] // 14)))  # type: ignore[type-var]
    accuracies: Accuracies = []

    def after(number: int, learned: nn.Module) -> None:
        seen_with_heads = fip.networks.MultiHead(learned, len(tasks), series.image) if heads else learned
        accuracies.append(judged(seen_with_heads, series, number))

    inner = module.module if isinstance(module, fip.networks.MultiHead) else module
    learned = learner.learn(
        inner, tasks, num_iterations=setting.num_iterations, seed=setting.seed, after=after, first=1
    )
    return Outcome(accuracies, learned.memory_bytes, learned.processor_seconds)


def apart(setting: Setting) -> Outcome:
    """Train a separate network for each task, as the base network was trained."""
    series = setting.series
    accuracies, seconds = [judged(setting.base, series)], 0.0
    for number, name in enumerate(list(series.tasks)[1:], 1):
        task, held_out = series.tasks[name], along_paths.NUM_HELD_OUT
        inputs, labels = torch.from_numpy(task.inputs[:-held_out]), torch.from_numpy(task.labels[:-held_out])
        recipe = Recipe(series.network, name, setting.num_iterations, rate=along_paths.RATE, seed=setting.seed)
        torch.manual_seed(setting.seed)
        module, began = series.make(), time.process_time()
        train(module, inputs, labels, recipe)
        seconds += time.process_time() - began
        accuracies.append([*accuracies[-1][:number], judged(module.eval(), replace(series, tasks={name: task}))[0]])
    return Outcome(accuracies, 0, seconds)


def head(number: int, size: int) -> Callable[[Tensor], Tensor]:
    """Return the outputs of a task with a given number of classes."""
    return lambda outputs: outputs[:, size * number : size * (number + 1)]


CONTENDERS: dict[str, Contender] = {
    "naive": partial(rival, name="naive"),
    "joint": partial(rival, name="joint"),
    "apart": apart,
    **{name: partial(rival, name=name) for name in rivals.LEARNERS if name not in ("naive", "joint")},
    "er, shifted": partial(rival, name="er", shifted=True),
    "der++, shifted": partial(rival, name="der++", shifted=True),
    "path: nothing stored": partial(chain, stored=False),
    "path: metric stored": partial(chain, stored=False, metric=True),
    "path: inputs stored": partial(chain, stored=True),
    "path: published": partial(chain, stored=True, published=True),
}


@torch.no_grad()
def judged(outputs_of: Callable[[Tensor], Tensor], series: Series, last: int = 0) -> list[float]:
    """Accuracies on the tests of the tasks up to number `last`."""
    found = []
    for task in list(series.tasks.values())[: last + 1]:
        inputs, labels = torch.from_numpy(task.test_inputs), torch.from_numpy(task.test_labels)
        outputs = torch.cat([outputs_of(part) for part in inputs.split(2000)])
        found.append(float((outputs.argmax(1) == labels).double().mean()))
    return found


def records_of(name: str, setting: Setting, outcome: Outcome) -> list[Record]:
    """Return one record per learned task."""
    rows, tasks = [], list(setting.series.tasks)
    for number, row in enumerate(outcome.accuracies):
        best = [max(before[task] for before in outcome.accuracies[task:number]) for task in range(number)]
        forgetting = float(np.mean([high - now for high, now in zip(best, row, strict=False)])) if number else None
        rows.append(
            {
                "series": setting.series.name,
                "scenario": setting.series.scenario,
                "network": setting.series.network,
                "method": name,
                "seed": setting.seed,
                "num_iterations": setting.num_iterations,
                "num_stored": setting.num_stored,
                "memory_bytes": outcome.memory_bytes,
                "seconds": outcome.seconds,
                "task": tasks[number],
                "task_number": number + 1,
                "average_accuracy": float(np.mean(row)),
                "forgetting": forgetting,
                "accuracies": row,
            }
        )
    return rows


def is_of(record: Record, name: str, setting: Setting) -> bool:
    """Whether a record is of this contender in this setting."""
    series = setting.series
    theirs = tuple(record[key] for key in ("method", "series", "scenario", "network", "seed"))
    how = record["num_iterations"], record["num_stored"]
    return (theirs, how) == (
        (name, series.name, series.scenario, series.network, setting.seed),
        (setting.num_iterations, setting.num_stored),
    )


def show(console: Console, frame: pd.DataFrame) -> None:
    last = frame[frame["task_number"] == frame.groupby(["series", "scenario"])["task_number"].transform("max")]
    for (series, scenario), rows in last.groupby(["series", "scenario"], sort=False):
        table = Table(title=f"{series}, {scenario}: accuracy at the end, mean and spread over seeds, %", box=None)
        for column in ("method", "seeds", "average accuracy", "forgetting", "memory, kB", "s", "of naive", "by task"):
            table.add_column(column, justify="left" if column == "method" else "right")
        naive = rows[rows["method"] == "naive"]["seconds"].median()
        for method, some in rows.groupby("method", sort=False):
            by_task = 100 * np.mean(some["accuracies"].tolist(), axis=0)
            spread = some["average_accuracy"].std(ddof=0)
            table.add_row(
                str(method),
                str(len(some)),
                f"{100 * some['average_accuracy'].mean():.2f} ± {100 * spread:.2f}",
                f"{100 * some['forgetting'].mean():.2f}",
                f"{some['memory_bytes'].mean() / 1e3:,.0f}",
                f"{some['seconds'].median():.0f}",
                f"{some['seconds'].median() / naive:.2f}",
                " ".join(f"{value:.1f}" for value in by_task),
            )
        console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", default="split-mnist", choices=get_args(along_paths.SeriesName))
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument(
        "--network", default="", choices=get_args(along_paths.NetworkName), help="of digits-then-clothes"
    )
    parser.add_argument("--data-root", default="")
    parser.add_argument("--iterations", type=int, default=2000, help="for each task")
    parser.add_argument("--stored", type=int, default=100, help="examples of each class that are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs="+", default=[], metavar="TEXT")
    parser.add_argument("--quick", action="store_true", help="100 iterations, one seed, few contenders")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args(arguments)
    if args.quick:
        args.iterations, args.seeds = 100, args.seeds[:1]
        args.only = args.only or ["=naive", "=er", "=der++", "=lwf", "path: nothing", "path: inputs"]
    chosen = {
        name: contender
        for name, contender in CONTENDERS.items()
        if not args.only
        or any(name == text[1:] if text.startswith("=") else text.lower() in name.lower() for text in args.only)
    }
    if not chosen:
        parser.error(f"--only names none of: {', '.join(CONTENDERS)}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    console = Console(width=None if sys.stdout.isatty() else 160)
    records = resumed.read(args.json, parser)
    asked: list[Record] = []
    made = (along_paths.of_name(args.series, one, args.network, args.data_root) for one in args.scenarios)
    for series in {series.scenario: series for series in made}.values():  # but the split ones have one scenario
        for seed in args.seeds:
            base, _ = along_paths.base_of(series, args.iterations, seed)
            setting = Setting(series, base, args.iterations, args.stored, seed)
            for name, contender in chosen.items():
                if found := [record for record in records if is_of(record, name, setting)]:
                    asked += found
                    continue
                found = records_of(name, setting, contender(setting))
                records += found
                asked += found
                console.print(
                    f"{series.name}, {series.scenario}, seed {seed}, {name}: average accuracy "
                    f"{100 * found[-1]['average_accuracy']:.2f} in {found[-1]['seconds']:.0f} s",
                    highlight=False,
                )
                resumed.write(records, args.json)
    frame = pd.DataFrame(asked)
    show(console, frame)
    if args.figure:
        curves(frame).savefig(args.figure, dpi=130)
    return 0


def curves(frame: pd.DataFrame) -> Any:
    """Average accuracy on the tasks so far, a panel a scenario and a line a method."""
    from matplotlib.figure import Figure

    groups = list(frame.groupby(["series", "scenario"], sort=False))
    figure = Figure(figsize=(4.2 * len(groups) + 2, 4), layout="constrained")
    axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, ((series, scenario), rows) in zip(axes, groups, strict=True):
        for number, (method, some) in enumerate(rows.groupby("method", sort=False)):
            mean = some.groupby("task_number")["average_accuracy"].mean() * 100
            ours = str(method).startswith("path")
            axis.plot(
                mean.index,
                mean,
                label=method,
                linewidth=2 if ours else 1,
                color=("#D55E00", "#0072B2", "#000000")[number % 3] if ours else None,
                marker="o" if ours else None,
            )
        axis.set(title=f"{series}, {scenario}", xlabel="tasks learned", ylabel="average accuracy, %")
        axis.set_xticks(mean.index)
        axis.grid(color="#e4e4e4")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
