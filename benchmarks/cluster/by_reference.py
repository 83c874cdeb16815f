"""What a study on images by reference takes of memory and time.

    python -m benchmarks.cluster.by_reference [--gigabytes 2] [--steps 20] [--only memory] [--json FILE]

A memory map of random uint8 images of 3 x 32 x 32 is written to a folder of its own, which is deleted at the end.

- Steps of ResNet-20 on batches of 64: 800 anchors in memory, the same anchors by reference, and all anchors by
  reference, for which the outputs of the start are computed for each draw. Five steps of each in turn; medians.
- Memory of the driver and of two actors on Ray while two paths of a small network are traced on all anchors, and on a
  hundredth of them: the largest anonymous memory (`Anonymous` in /proc/PID/smaps_rollup), which is private. It excludes
  Ray's shared object store and pages of the memory map, which the system drops when it needs memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import fipray as fip
from experiments.networks import resnet_20
from fipray.execution import Silent
from fipray.paths.problem import anchors_and_held_out
from fipray.study.tensors import Tensors

BATCH, IN_MEMORY = 64, 1000
IMAGE = 3, 32, 32
FUNCTION = "benchmarks.cluster.by_reference:images"


def images(file: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Open the first images of a file, with labels."""
    mapped = np.load(file, mmap_mode="r")[:count]
    return mapped, np.arange(count) % 10


def write(file: Path, num_bytes: float) -> int:
    """Write random images, a piece at a time, and return their number."""
    count, random = int(num_bytes / np.prod(IMAGE)), np.random.default_rng(0)
    mapped = np.lib.format.open_memmap(file, "w+", np.uint8, (count, *IMAGE))
    for at in range(0, count, 10_000):
        mapped[at : at + 10_000] = random.integers(0, 256, mapped[at : at + 10_000].shape, np.uint8)
    mapped.flush()
    return count


def seconds_of_steps(data: dict[str, fip.Data], num_steps: int) -> dict[str, list[float]]:
    """Seconds of a step on each of the data, in blocks of five steps of each in turn."""
    module = resnet_20().eval()
    # A schedule accepts every step, so that each point is one step.
    settings = fip.Settings(
        num_steps=num_steps + 5, batch_size=BATCH, stepper=fip.steppers.FirstOrder(), radius=fip.radii.Scheduled(1e-4)
    )
    walks, seconds = {}, dict[str, list[float]]()
    for name, each in data.items():
        tensors = Tensors(each, "cpu")
        problem = fip.Problem(module, tensors.anchors(()), tensors.held_out(())[:256])
        anchors, _ = anchors_and_held_out(problem)
        walks[name], seconds[name] = fip.walk(problem, anchors, fip.objectives.Sparsify(0.5), settings), []
        next(walks[name])  # the first step also makes the first draw
    names = list(walks)
    for block in range(num_steps // 5):
        for name in (*names[block % len(names) :], *names[: block % len(names)]):
            began = time.perf_counter()
            for _ in range(5):
                next(walks[name])
            seconds[name].append((time.perf_counter() - began) / 5)
    return seconds


@dataclass
class Memory:
    """Largest anonymous memory of this process and of Ray's actors that it started, in bytes."""

    driver: int = 0
    actors: dict[int, int] = field(default_factory=dict)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at them while the context is open."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.1):
                self.driver = max(self.driver, anonymous(os.getpid()))
                for process in actors(os.getpid()):
                    self.actors[process] = max(self.actors.get(process, 0), anonymous(process))

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()


def anonymous(process: int) -> int:
    """Anonymous memory of a process in bytes; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:")), 0)


def actors(driver: int) -> list[int]:
    """List the processes of Ray below a driver that run an actor."""
    parents, names = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(folder.name)] = (folder / "cmdline").read_text()
            except OSError:
                continue
    below = [driver]
    for process in below:
        below += [child for child, parent in parents.items() if parent == process]
    return [process for process in below if names.get(process, "").startswith("ray::Actor")]


def study(data: fip.Data, num_steps: int) -> fip.Study:
    """Two paths, each on an actor of its own."""
    paths = tuple(
        fip.PathSpec(f"path-{seed}", fip.objectives.Sparsify(0.5), num_steps=num_steps, batch_size=BATCH, seed=seed)
        for seed in range(2)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10)).eval()
    return fip.Study("by-reference", module, data, paths)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", choices=("memory", "steps"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        file = Path(scratch) / "images.npy"
        count = write(file, asked.gigabytes * 1e9)
        print(f"{count:,} images of {'x'.join(map(str, IMAGE))}, {file.stat().st_size / 1e9:.2f} GB")
        found = {} if asked.only == "steps" else memory(file, count, scratch, asked.steps)
        found |= {} if asked.only == "memory" else steps(file, count, asked.steps)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def _data(file: Path, count: int, **more: Any) -> fip.Data:
    return fip.Data.of(fip.DataRef(FUNCTION, "1", {"file": str(file), "count": count}), num_held_out=100, **more)


def memory(file: Path, count: int, scratch: str, num_steps: int) -> dict[str, float]:
    """Memory of a study on all images and on a hundredth of them, in MB."""
    found = {}
    for name, some in (("few", count // 100), ("all", count)):
        seen = Memory()
        before = anonymous(os.getpid())
        with seen.watched():
            fip.RayRunner(num_workers=2).run(study(_data(file, some), num_steps), Path(scratch) / name, Silent())
        found[f"driver, {name}"] = (seen.driver - before) / 1e6
        for number, largest in enumerate(sorted(seen.actors.values())[-2:]):
            found[f"actor {number}, {name}"] = largest / 1e6
    for name, megabytes in found.items():
        print(f"{name}: {megabytes:.0f} MB of anonymous memory" + (" more than before" if "driver" in name else ""))
    return found


def steps(file: Path, count: int, num_steps: int) -> dict[str, float]:
    """Medians of the seconds of a step."""
    few = _data(file, count, limit=IN_MEMORY)
    data = {
        "in memory": replace(few, anchors=np.asarray(few.anchors), held_out=np.asarray(few.held_out)),
        "by reference": few,
        "by reference, outputs for each draw": _data(file, count),
    }
    found = {name: statistics.median(seconds) for name, seconds in seconds_of_steps(data, num_steps).items()}
    for name, seconds in found.items():
        print(f"step {name}: {1000 * seconds:.1f} ms, {seconds / found['in memory']:.3f} of that in memory")
    return found


if __name__ == "__main__":
    main()
