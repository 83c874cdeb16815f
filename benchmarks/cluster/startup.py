"""Start of a run with many workers: real scheduler, queue, store and calls through Ray; workers without a process each.

    python -m benchmarks.cluster.startup [--workers 100 300 1000] [--jobs 3] [--set-up 20] [--seconds 10] [--json FILE]

Real are the driver's event loop, its `ray.wait` over all workers, the packed jobs, the results, the commits and tables,
and the reading of heartbeats. A stub is the worker: coroutines of a few processes of Ray answer for all of them, sleep
for the seconds of a set-up (`--set-up` to twice as many) and of a job, and return the rows of a path. Nothing loads a
network, writes weights or sends heartbeats. With `--processes`, each worker is a process of Ray that imports no torch:
this is what one node has to bear, and how far it goes depends on its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from rich.console import Console
from rich.table import Table

from benchmarks.cluster.scale import memory, rows, study
from fipray.cluster import pickling
from fipray.cluster.actors import ActorPool
from fipray.cluster.heartbeats import progress_channel
from fipray.cluster.monitor import ClusterMonitor
from fipray.cluster.resources import WorkerResources
from fipray.cluster.retries import Retries
from fipray.cluster.scheduler import _Scheduler
from fipray.cluster.worker_actor import WorkerLocation
from fipray.execution import Silent
from fipray.execution.jobs import Tables
from fipray.execution.queue import Queue

NUM_HOSTS, SPREAD = 4, 97  # processes that answer for all workers; numbers by which set-ups differ


class Host:
    """Process that answers for many workers."""

    def __init__(self) -> None:
        self._node_id = ray.get_runtime_context().get_node_id()

    async def set_up(self, seconds: float) -> WorkerLocation:
        await asyncio.sleep(seconds)
        return WorkerLocation(self._node_id, "stub", 0, "")

    async def carry_out(self, packed: bytes, seconds: float) -> Tables:
        job = cloudpickle.loads(packed)
        await asyncio.sleep(seconds)
        return rows(job.id, job.spec, job.attempt, {"weights_file": None, "weights_sha256": None})


class Call:
    """Method of a worker, as a handle of an actor has it."""

    def __init__(self, method: Any, *more: object) -> None:
        self._method, self._more = method, more

    def remote(self, *given: object) -> ray.ObjectRef:
        return self._method.remote(*given, *self._more)


class Worker:
    """Handle of a worker that a host answers for."""

    def __init__(self, host: Any, set_up: float, seconds: float) -> None:
        self.set_up, self.carry_out = Call(host.set_up, set_up), Call(host.carry_out, seconds)


class Workers:
    """Makes workers, as an actor class does."""

    def __init__(self, hosts: list[Any], set_up: float, seconds: float) -> None:
        self._hosts, self._set_up, self._seconds, self._count = hosts, set_up, seconds, itertools.count()

    def remote(self, *_: object) -> Worker:
        number = next(self._count)
        later = self._set_up * (number * 37 % SPREAD) / SPREAD
        return Worker(self._hosts[number % len(self._hosts)], self._set_up + later, self._seconds)


class Process:
    """Worker that is a process, and imports no torch."""

    def __init__(self, *_: object) -> None:
        self._node_id = ray.get_runtime_context().get_node_id()

    def set_up(self) -> Any:
        import pathlib
        import types

        # Of this class alone, which is sent by value: importing this module would load torch.
        lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
        private = sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private"))
        return types.SimpleNamespace(node_id=self._node_id, private=private)

    def carry_out(self, packed: bytes) -> dict[str, list[object]]:
        return {}


class Times(Silent):
    """Notes when each worker begins its first job, when jobs end, and the largest memory of the driver."""

    def __init__(self) -> None:
        self.began, self.ended, self.most = dict[str, float](), list[float](), 0

    def started(self, job: Any, where: str) -> None:
        self.began.setdefault(where, time.perf_counter())
        self.most = max(self.most, memory())

    def finished(self, job: Any, sentence: str, seconds: float) -> None:
        self.ended.append(time.perf_counter())


def measure(num_workers: int, num_jobs: int, set_up: float, seconds: float, directory: Path) -> dict[str, Any]:
    hosts = [ray.remote(num_cpus=0, max_concurrency=num_workers)(Host).remote() for _ in range(NUM_HOSTS)]
    made = study(num_workers * num_jobs, 11, weights=False)
    # What is loaded once, such as torch for the specs of jobs, is no part of the start.
    ray.get([host.set_up.remote(0.0) for host in hosts])
    warm = Queue(study(NUM_HOSTS, 11, weights=False), directory / "warm", Silent())
    packed = [pickling.dumps(job) for _ in range(NUM_HOSTS) if (job := warm.next("stub"))]
    ray.get([host.carry_out.remote(one, 0.0) for host, one in zip(hosts, packed, strict=True)])
    listener, resources = Times(), WorkerResources(1)
    queue = Queue(made, directory / "results", listener)
    before, cpu, began = memory(), time.process_time(), time.perf_counter()
    monitor = ClusterMonitor(resources, progress_channel())
    payload = pickling.put(queue.payload, listener.note)
    pool = ActorPool(Workers(hosts, set_up, seconds), (payload,), monitor.channel)
    with monitor:
        _Scheduler(queue, pool, num_workers, resources, Retries(3), listener, monitor, None).run()
        ended = time.perf_counter()
    queue.close()
    cpu = time.process_time() - cpu
    for host in hosts:
        ray.kill(host)
    return {
        "workers": num_workers,
        "jobs": len(made.specs),
        "first_worker_begins_seconds": min(listener.began.values()) - began,
        "last_worker_begins_seconds": max(listener.began.values()) - began,
        "workers_begun": len(listener.began),
        "last_job_ends_seconds": listener.ended[-1] - began,
        "run_seconds": ended - began,
        "driver_cpu_seconds": cpu,
        "driver_cpu_of_a_core": cpu / (ended - began),
        "driver_mb_before": before / 1e6,
        "driver_mb_most": max(listener.most, memory()) / 1e6,
        "threads_of_driver": threading.active_count(),
    }


def measure_processes(num_workers: int) -> dict[str, Any]:
    """Time until so many processes of Ray answer, and the memory of their own that each has then."""
    began = time.perf_counter()
    pool = ActorPool(ray.remote(num_cpus=0, max_restarts=0)(Process), ())
    pool.grow(num_workers)
    marks = []
    while pool.starting:
        ready, _ = ray.wait(list(pool.starting), timeout=60)
        if not ready:
            break
        for ref in ready:
            pool.finish_start(ref)
            marks.append(time.perf_counter() - began)
    private: list[int] = [getattr(worker.location, "private", 0) for worker in pool.idle.values()]
    record = {
        "workers": num_workers,
        "answered": len(marks),
        "first_answers_seconds": marks[0],
        "last_answers_seconds": marks[-1],
        "private_mb_each": sum(private) / 1e6 / len(private),
    }
    pool.close()
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--jobs", type=int, default=3, help="for each worker")
    parser.add_argument("--set-up", type=float, default=20.0, help="seconds; up to twice as many")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each job")
    parser.add_argument("--processes", action="store_true", help="a process for each worker, which does nothing")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    records = []
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    for num_workers in args.workers:
        with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as directory:
            if args.processes:
                records.append(measure_processes(num_workers))
            else:
                records.append(measure(num_workers, args.jobs, args.set_up, args.seconds, Path(directory)))
        if args.json:
            args.json.write_text(json.dumps(records, indent=1) + "\n")
    ray.shutdown()
    table = Table(title=f"ray {ray.__version__}")
    table.add_column("")
    for record in records:
        table.add_column(f"{record['workers']:,} workers", justify="right")
    for name in records[0]:
        table.add_row(name, *(f"{record[name]:,.4g}" for record in records))
    Console().print(table)


if __name__ == "__main__":
    main()
