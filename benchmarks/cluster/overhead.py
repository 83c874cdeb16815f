"""What Ray costs, and what a second actor gains.

    python -m benchmarks.cluster.overhead [--quick] [--json FILE]

The same paths (8 of about 10 seconds each) in this process, by one actor and by two actors of one thread each. "in all"
holds the set-up of Ray and of its workers; "walking" is from the begin of the first path to the end of the last. Wanted
of walking: one actor takes at most 1.05 times as long as this process, two are at least 1.8 times as fast as one.
Figures hold for a quiet machine of two cores or more: Ray runs its workers at niceness 15, so that whatever else runs
goes first.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fipray as fip
from fipray.execution import Silent
from fipray.execution.jobs import Job


def study(num_paths: int, num_steps: int) -> fip.Study:
    """Paths that cost the same, of a network that takes milliseconds a step."""
    inputs = np.random.default_rng(0).random((2500, 200), dtype=np.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(200, 300), nn.Tanh(), nn.Linear(300, 10)).eval()
    paths = tuple(
        fip.PathSpec(
            f"path-{number:05d}",
            fip.objectives.Sparsify(0.5),
            stepper=fip.steppers.FirstOrder(),
            num_steps=num_steps,
            seed=number,
        )
        for number in range(num_paths)
    )
    return fip.Study("overhead", module, fip.Data(inputs[:2000], inputs[2000:]), paths)


class Clock(Silent):
    """When the first work began, and when the last one ended; with the driver's own seconds of CPU between."""

    def __init__(self) -> None:
        self.began = self.ended = self.cpu_began = self.cpu_ended = 0.0

    def started(self, job: Job, where: str) -> None:
        self.began, self.cpu_began = self.began or time.perf_counter(), self.cpu_began or time.process_time()

    def finished(self, job: Job, sentence: str, seconds: float) -> None:
        self.ended, self.cpu_ended = time.perf_counter(), time.process_time()


@dataclass(frozen=True)
class Measured:
    """Seconds of a run, and the part of a core that the driver took while workers walked."""

    in_all: float
    walking: float
    driver: float


def measured(run: Callable[[fip.Study, Path, Any], Any], made: fip.Study) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        clock, began = Clock(), time.perf_counter()
        run(made, Path(folder, "results"), clock)
        walking = clock.ended - clock.began
        return Measured(time.perf_counter() - began, walking, (clock.cpu_ended - clock.cpu_began) / walking)


def steps_in(seconds: float) -> int:
    """How many steps this process walks in that time."""
    few, many = (measured(fip.LocalRunner().run, study(1, steps)).walking for steps in (10, 60))
    return max(int(seconds / max((many - few) / 50, 1e-4)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 paths of a second: within a minute or two")
    parser.add_argument("--json", type=Path, help="write the records here")
    chosen = parser.parse_args()
    num_paths, seconds = (4, 1.0) if chosen.quick else (8, 10.0)
    os.environ.pop("RAY_ADDRESS", None)
    torch.set_num_threads(1)
    made = study(num_paths, steps_in(seconds))
    runs = {
        "this process": measured(fip.LocalRunner().run, made),
        "one actor": measured(fip.RayRunner(num_workers=1).run, made),
        "two actors": measured(fip.RayRunner(num_workers=2).run, made),
    }
    table = Table("paths", "in all, s", "walking, s", "driver, cores")
    for name, run in runs.items():
        table.add_row(name, f"{run.in_all:.1f}", f"{run.walking:.1f}", f"{run.driver:.3f}")
    Console().print(table)
    alone, one, two = runs.values()
    records = {
        "num_paths": num_paths,
        "seconds": {name: vars(run) for name, run in runs.items()},
        "ratio_in_all": one.in_all / alone.in_all,
        "ratio_walking": one.walking / alone.walking,
        "speed_up": one.walking / two.walking,
    }
    print(f"one actor / this process: {records['ratio_walking']:.3f} walking, {records['ratio_in_all']:.3f} in all")
    print(f"two actors: {records['speed_up']:.2f} times as fast as one")
    if chosen.json:
        chosen.json.write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
