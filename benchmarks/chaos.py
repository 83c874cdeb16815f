"""What is left of a study on Ray when a worker, a node and the driver are killed while it runs, and it is run again.

    python -m benchmarks.chaos [--quick] [--seeds 0 1 2] [--paths N] [--json FILE]

Three nodes of one CPU each, as processes on this machine. After numbers of commits that the seed draws, one worker, one
raylet (a node with all that is on it; another joins in its place) and the driver are ended with `kill -9`, in an order
that the seed draws; a killed driver is started again with the same command. Then every (path, step) must be there once,
all rows of a path from one attempt, and everything but places, durations and attempts equal to an undisturbed run, the
digests of the weights with it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.records import Store

ROOT = Path(__file__).parents[1]
MAY_DIFFER = {"attempt", "host", "node_id", "worker_id", "device", "seconds", "walk_seconds", "weights_file"}
KILLED = ("worker", "raylet", "driver")
NUM_NODES = 3
PATIENCE_SECONDS = 300.0
# Nodes are found to be lost in seconds, not minutes; these are read by every process of Ray.
QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_grpc_client_keepalive_time_ms": "3000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
    "RAY_raylet_start_wait_time_s": "240",  # but a busy machine may take its time to start one
}


def study(*, paths: int = 24, num_steps: int = 150) -> fip.Study:
    """Short paths of two kinds from a small network with random weights."""
    draws = np.random.default_rng(0)
    inputs = draws.random((1200, 20), dtype=np.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 5)).eval()
    steppers = (fip.FirstOrderStep(beta=0.1), fip.NaturalStep())
    specs = [
        fip.PathSpec(
            f"path-{number:02d}",
            fip.Sparsify(0.5) if number % 3 else fip.RandomWalk(),
            steppers[number % 2],
            num_steps=num_steps,
            batch_size=100,
            save_at=fip.SaveAt(10),
            seed=number,
        )
        for number in range(paths)
    ]
    return fip.Study("chaos", module, fip.Data(inputs[:1000], inputs[1000:]), tuple(specs))


@dataclass(frozen=True)
class Record:
    """What was killed after how many commits, and what is left."""

    seed: int
    kills: dict[str, int]
    drivers: int
    attempts: int
    points: int
    lost: int
    duplicated: int
    mixed: int
    equal: bool


class Nodes:
    """Nodes of one CPU on this machine, the first of them the head."""

    def __init__(self, directory: str) -> None:
        self._directory, self._port = directory, _free_port()
        self.address = f"127.0.0.1:{self._port}"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._started.append(self._start("--head", f"--port={self._port}", f"--temp-dir={self._directory}"))
        _wait(lambda: _answers(self._port) and bool(_raylets(self._started[0])), "the head")
        for _ in range(NUM_NODES - 1):
            self.join()

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        common = ["--block", "--num-cpus=1", "--node-ip-address=127.0.0.1", "--object-store-memory=100000000"]
        command = [str(Path(sys.executable).with_name("ray")), "start", *options, *common, "--disable-usage-stats"]
        if "--head" in options:
            command += ["--include-dashboard=false", f"--ray-client-server-port={_free_port()}"]
        with open(Path(self._directory, f"node-{time.monotonic_ns()}.log"), "wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self._directory)

    def join(self) -> None:
        self._started.append(self._start(f"--address={self.address}"))
        _wait(lambda: bool(_raylets(self._started[-1])), "a raylet")

    def workers(self) -> list[int]:
        """The processes of actors that are set up, on all nodes."""
        raylets = [raylet for node in self._started for raylet in _raylets(node)]
        return [
            process for raylet in raylets for process in _children(raylet) if _command(process)[:10] == "ray::Actor"
        ]

    def lose_one(self, draws: random.Random) -> None:
        """Kill the raylet of a node that is not the head."""
        node = draws.choice([node for node in self._started[1:] if _raylets(node)])
        os.kill(_raylets(node)[0], signal.SIGKILL)
        node.wait()
        self._started.remove(node)

    def close(self) -> None:
        for node in reversed(self._started):
            node.terminate()
        for node in reversed(self._started):
            node.wait()


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A cluster behind a random token, in the environment of this process and of those that it starts."""
    before = dict(os.environ)
    directory = tempfile.mkdtemp(prefix="fc", dir="/tmp")  # short: sockets have names of at most 107 characters
    os.environ |= {**QUICK_TO_NOTICE, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "HOME": directory}
    for name in ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):  # with the second at 0 no node may join
        os.environ.pop(name, None)
    cluster = Nodes(directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(directory, ignore_errors=True)


def disturbed(cluster: Nodes, seed: int, num_paths: int, directory: Path) -> tuple[dict[str, int], int]:
    """Run the study while things are killed; returns after how many commits each was, and how many drivers it took."""
    draws = random.Random(seed)
    moments = sorted(draws.sample(range(1, num_paths - 2), len(KILLED)))
    kills = list(zip(moments, draws.sample(KILLED, len(KILLED)), strict=True))
    made, drivers = {}, 0
    driver: subprocess.Popen[bytes] | None = None
    log = open(directory.with_suffix(".log"), "wb")  # noqa: SIM115 (for as long as drivers live)
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while driver is None or driver.poll() is None:
            if time.monotonic() > deadline:
                raise fip.RunError(f"seed {seed} is not done after {PATIENCE_SECONDS:g} s; see {log.name}")
            if driver is None:
                driver, drivers = _driver(cluster, num_paths, directory, log), drivers + 1
            done = len(list((directory / "commits").glob("*.json")))
            if kills and done >= kills[0][0]:
                what = kills[0][1]
                if what == "driver":
                    driver.kill()
                    driver.wait()
                    driver = None
                elif what == "raylet":
                    cluster.lose_one(draws)
                    cluster.join()
                elif workers := cluster.workers():
                    os.kill(draws.choice(workers), signal.SIGKILL)
                else:
                    continue
                made[kills.pop(0)[1]] = done
            time.sleep(0.02)
        if driver.returncode:
            raise fip.RunError(f"seed {seed} ended with {driver.returncode}; see {log.name}")
    finally:
        if driver and driver.poll() is None:
            driver.kill()
            driver.wait()
        log.close()
    return made, drivers


def examined(seed: int, kills: dict[str, int], drivers: int, directory: Path, calm: analysis.Results) -> Record:
    """What is left, against an undisturbed run."""
    Store.open(directory).verify()
    found = analysis.load(directory)
    key = ["path_id", "step"]
    rows, expected = ({*map(tuple, results.points[key].to_numpy().tolist())} for results in (found, calm))
    equal = True
    for name in ("paths", "points"):
        one, other = (
            getattr(results, name).drop(columns=MAY_DIFFER & set(getattr(results, name))) for results in (found, calm)
        )
        equal = equal and one.equals(other)
    return Record(
        seed=seed,
        kills=kills,
        drivers=drivers,
        attempts=int(found.paths["attempt"].sum()),
        points=len(found.points),
        lost=len(expected - rows),
        duplicated=int(found.points.duplicated(key).sum()),
        mixed=int((found.points.groupby("path_id")["attempt"].nunique() > 1).sum()),
        equal=equal,
    )


def survive(seeds: list[int], num_paths: int, folder: Path) -> Iterator[Record]:
    """A record for each seed; results and logs are in `folder`."""
    with nodes() as cluster:
        with open(folder / "calm.log", "wb") as log:
            if _driver(cluster, num_paths, folder / "calm", log).wait():
                raise fip.RunError(f"the undisturbed run failed; see {log.name}")
        calm = analysis.load(folder / "calm")
        for seed in seeds:
            directory = folder / f"seed-{seed}"
            kills, drivers = disturbed(cluster, seed, num_paths, directory)
            yield examined(seed, kills, drivers, directory, calm)


def _driver(cluster: Nodes, num_paths: int, directory: Path, log: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fipray.cli", "run", "benchmarks.chaos:study", "-p", f"paths={num_paths}"]
    command += ["--address", cluster.address, "--into", str(directory)]
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)  # type: ignore[call-overload]


def _raylets(node: subprocess.Popen[bytes]) -> list[int]:
    return [process for process in _children(node.pid) if _command(process).partition(" ")[0].endswith("/raylet")]


def _children(process: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{process}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:  # it is gone
        return []


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def _wait(true: object, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise fip.RunError(f"waited {PATIENCE_SECONDS:g} s for {what}")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, eight paths: within a minute")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--paths", type=int, default=24)
    parser.add_argument("--json", type=Path, help="write the records here")
    chosen = parser.parse_args()
    seeds, num_paths = ([0], 8) if chosen.quick else (chosen.seeds, chosen.paths)
    table = Table("seed", "killed, after commits", "drivers", "attempts", "points", "lost", "twice", "mixed", "equal")
    records = []
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    for record in survive(seeds, num_paths, folder):
        records.append(record)
        kills = ", ".join(f"{what} {commits}" for what, commits in record.kills.items())
        values = (record.drivers, record.attempts, record.points, record.lost, record.duplicated, record.mixed)
        table.add_row(str(record.seed), kills, *map(str, values), "yes" if record.equal else "NO")
        print(f"seed {record.seed}: {kills}; lost {record.lost}, equal {record.equal}", flush=True)
    Console().print(table)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(record) for record in records], indent=1))
    if all(r.equal and not (r.lost or r.duplicated or r.mixed) and len(r.kills) == 3 for r in records):
        shutil.rmtree(folder)
    else:
        raise SystemExit(f"not as it should be; results and logs are in {folder}")


if __name__ == "__main__":
    main()
