"""The driver under many paths: real runner, store and tables; workers that walk nothing.

    python -m benchmarks.cluster.scale [--paths 10000 100000] [--points 10] [--workers 32] [--quick] [--json FILE]

Every worker answers at once with the rows of a path of that many points and, unless --no-weights, writes one small
weights file. Measured: paths a second, from the first to the last (workers are set up before); the driver's memory,
also for each 10,000 paths that are finished; files and bytes; seconds until pandas has the tables, before and after
`compact`; and how long the driver takes to go on from such a directory.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import cloudpickle
from rich.console import Console
from rich.table import Table

import fipray as fip
from fipray import analysis
from fipray.cluster.resources import WorkerResources
from fipray.cluster.scheduler import run_jobs
from fipray.cluster.worker_actor import Actor
from fipray.execution import Silent
from fipray.execution.jobs import Tables
from fipray.execution.queue import Queue
from fipray.records import compact

WEIGHTS = np.arange(1000, dtype=np.float32)


class StubActor(Actor):
    """Answers for a path that it did not walk."""

    def carry_out(self, packed: bytes) -> Tables:
        job, store = cloudpickle.loads(packed), self._worker._resources.store
        named: dict[str, str | None] = {"weights_file": None, "weights_sha256": None}
        if job.spec.events:  # which no other spec here has
            file, sha256 = store.write_weights(job.id, job.attempt, "end", {"weights": WEIGHTS})
            named = {"weights_file": file, "weights_sha256": sha256}
        return rows(job.id, job.spec, job.attempt, named)


def rows(id: str, spec: fip.PathSpec, attempt: int, named: Mapping[str, str | None]) -> Tables:
    shared = {"study": "scale", "path_id": id, "name": spec.name, "attempt": attempt}
    numbers = {
        "sparsity": 0.5,
        "functional_distance": 0.01,
        "functional_distance_held_out": 0.02,
        "objective_value": 0.5,
        "clean_accuracy": 0.98,
    }
    step = {"gain": 0.1, "radius": 0.05, "weights_distance": 1.0, "seconds": 0.1, **numbers}
    nowhere = {"weights_file": None, "weights_sha256": None}
    points = [{**shared, "step": k, **step, **nowhere} for k in range(spec.num_steps)]
    points[-1] |= named
    path = {
        **shared,
        **numbers,
        **named,
        "start": spec.start,
        "parent_path_id": None,
        "anchor_bytes": 0,
        "memory_bytes": 0,
        "objective_start": 1.0,
        "objective_end": 0.5,
        "accuracy_collapsed_step": None,
        "warnings": "",
        "seed": spec.seed,
        "objective": "sparsify",
        "stepper": "natural",
        "spec_json": "{}",
        "outcome": "all steps were walked",
        "outcome_kind": "completed",
        "num_steps": spec.num_steps,
        "walk_seconds": 1.0,
        "host": "stub",
        "node_id": None,
        "worker_id": None,
        "device": "cpu",
    }
    return {"points": points, "paths": [path]}


class Rate(Silent):
    """Notes when each thousandth path was finished, and the driver's memory then."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, float, int]] = []
        self._count = 0

    def finished(self, job: Any, sentence: str, seconds: float) -> None:
        if self._count % 1000 == 0:
            self.marks.append((self._count, time.perf_counter(), memory()))
        self._count += 1


def memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def study(num_paths: int, num_points: int, weights: bool) -> fip.Study:
    inputs = np.zeros((4, 2), np.float32)
    events = (fip.events.ObjectiveBelow(0.0),) if weights else ()
    specs = tuple(
        fip.PathSpec(f"path-{n}", fip.objectives.Sparsify(0.5), num_steps=num_points, seed=n, events=events)
        for n in range(num_paths)
    )
    return fip.Study("scale", torch.nn.Linear(2, 2), fip.Data(inputs, inputs), specs)


def measure(num_paths: int, num_points: int, num_workers: int, weights: bool, directory: Path) -> dict[str, Any]:
    record: dict[str, Any] = {"paths": num_paths, "points": num_paths * num_points, "workers": num_workers}
    began = time.perf_counter()
    made = study(num_paths, num_points, weights)
    record["ids_seconds"] = timed(lambda: made.specs)
    listener = Rate()
    queue = Queue(made, directory, listener)
    record["study_seconds"] = time.perf_counter() - began
    resources = WorkerResources(1)
    cpu = time.process_time()
    run_jobs(queue, num_workers, resources, "DEFAULT", 3, listener, actor_class=StubActor)
    cpu = time.process_time() - cpu
    queue.close()
    (first, first_at, first_bytes), (last, last_at, last_bytes) = listener.marks[1], listener.marks[-1]
    record["paths_per_second"] = (last - first) / (last_at - first_at)
    record["driver_cpu_ms_per_path"] = 1e3 * cpu / num_paths
    record["mb_per_10000_paths"] = (last_bytes - first_bytes) / 1e6 * 1e4 / (last - first)
    record["driver_mb"] = memory() / 1e6
    del queue, listener
    gc.collect()
    files = [file for file in directory.rglob("*") if file.is_file()]
    record["files"] = len(files)
    record["table_files"] = sum(file.suffix in (".parquet", ".json") for file in files)
    record["bytes"] = sum(file.stat().st_size for file in files)
    record["resume_seconds"] = timed(lambda: Queue(made, directory, Silent()))
    record["load_seconds"] = timed(lambda: analysis.load(directory))
    record["compact_seconds"] = timed(lambda: compact(fip.records.Store.open(directory)))
    record["table_files_compacted"] = sum(file.suffix in (".parquet", ".json") for file in directory.rglob("*"))
    record["load_seconds_compacted"] = timed(lambda: analysis.load(directory))
    assert len(analysis.load(directory).points) == num_paths * num_points
    return record


def timed(job: Any) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--no-weights", action="store_true")
    parser.add_argument("--quick", action="store_true", help="3,000 paths, 8 workers")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.quick:
        args.paths, args.workers = [3000], 8
    records = []
    ray.init(address="local", num_cpus=args.workers, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as directory:
        for num_paths in args.paths:
            place = Path(directory) / f"results-{num_paths}"
            records.append(measure(num_paths, args.points, args.workers, not args.no_weights, place))
            if args.json:
                args.json.write_text(json.dumps(records, indent=1))
    ray.shutdown()
    table = Table(title=f"{args.points} points a path, {args.workers} workers, ray {ray.__version__}")
    table.add_column("")
    for record in records:
        table.add_column(f"{record['paths']:,} paths", justify="right")
    for name in records[0]:
        table.add_row(name, *(f"{record[name]:,.6g}" for record in records))
    Console().print(table)


if __name__ == "__main__":
    main()
