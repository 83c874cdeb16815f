"""What is left of a study on Ray when processes are killed or stopped while it runs, and the same command goes on.

    python -m benchmarks.cluster.chaos [--quick] [--only NAME ...] [--seeds 0 1] [--paths N] [--json FILE]

Three nodes of one CPU each, as processes on this machine. At numbers of commits that the seed draws:

    kills           one worker, one raylet (a node with all that is on it; another joins in its place) and the driver
                    get `kill -9`, in an order that the seed draws; a killed driver is started again
    control         Ray's control process (GCS) gets `kill -9`; the run must end with a sentence and status 1 or 2
                    within 20 seconds; the cluster is started again, and the same command goes on
    control-local   the same in a private session, which the command starts itself
    stopped-actor   one worker is stopped (SIGSTOP) for 20 to 60 seconds, and goes on
    stalled-actor   one worker is stopped for good; `--stall-seconds` ends it
    stopped-driver  the driver is stopped for 60 seconds, and goes on; `--stall-seconds` must blame no worker
    two-drivers     two drivers work into one directory at the same time

Then every (path, step) must be there once, all rows of a path from one attempt, and everything but places, durations
and attempts equal to an undisturbed run, the digests of the weights with it.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.records import Store

ROOT = Path(__file__).parents[2]
MAY_DIFFER = {"attempt", "host", "node_id", "worker_id", "device", "seconds", "walk_seconds", "weights_file"}
KILLED = ("worker", "raylet", "driver")
NUM_NODES = 3
PATIENCE_SECONDS = 300.0
SENTENCE_SECONDS = 20.0  # within which a run says that the control process is gone, and ends
STOPPED_SECONDS = 60.0
STALL_SECONDS = 10.0
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
    steppers = (fip.steppers.FirstOrder(beta=0.1), fip.steppers.Natural())
    specs = [
        fip.PathSpec(
            f"path-{number:02d}",
            fip.objectives.Sparsify(0.5) if number % 3 else fip.objectives.RandomWalk(),
            stepper=steppers[number % 2],
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
    """What happened, the seconds until the run ended with its sentence where it was to, and what is left."""

    scenario: str
    seed: int
    happened: str
    sentence_seconds: float | None
    seconds: float
    drivers: int
    attempts: int
    points: int
    lost: int
    duplicated: int
    mixed: int
    equal: bool

    @property
    def is_well(self) -> bool:
        in_time = self.sentence_seconds is None or self.sentence_seconds <= SENTENCE_SECONDS
        return self.equal and in_time and not (self.lost or self.duplicated or self.mixed)


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
        """Return the processes of initialised actors on all nodes."""
        raylets = [raylet for node in self._started for raylet in _raylets(node)]
        return [
            process for raylet in raylets for process in _children(raylet) if _command(process)[:10] == "ray::Actor"
        ]

    @property
    def control(self) -> int:
        """The control process, on the head."""
        return _control(self._started[0].pid)

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
        self._started.clear()


@contextmanager
def nodes() -> Iterator[Nodes]:
    """Start a cluster behind a random token, set in the environment of this process and its children."""
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


@dataclass
class Run:
    """A study that is carried out into a directory, and what is done to it meanwhile."""

    cluster: Nodes
    draws: random.Random
    num_paths: int
    directory: Path
    options: tuple[str, ...] = ()
    driver: subprocess.Popen[bytes] | None = None
    drivers: int = 0
    happened: list[str] = field(default_factory=list)
    sentence_seconds: float | None = None

    @property
    def log(self) -> Path:
        return self.directory.with_suffix(".log")

    @property
    def num_done(self) -> int:
        return len(list((self.directory / "commits").glob("*.json")))

    def moments(self, number: int) -> list[int]:
        """Numbers of commits at which something happens, in order."""
        return sorted(self.draws.sample(range(1, self.num_paths - 2), number))

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the command, with further arguments."""
        place = self.options or ("--address", self.cluster.address)
        self.driver = _driver(self.num_paths, self.directory, self.log, *place, *more)
        self.drivers += 1
        return self.driver

    def until(self, done: int) -> int:
        """Wait for so many commits; returns how many there are then."""
        _wait(lambda: self.num_done >= done or self._is_over(), f"{done} commits of {self.directory.name}")
        return self.num_done

    def finish(self) -> None:
        """Wait for the end. Raises RunError where it is not a good one."""
        _wait(self._is_over, f"the end of {self.directory.name}")
        assert self.driver is not None
        if self.driver.returncode:
            raise fip.errors.RunError(f"{self.directory.name} ended with {self.driver.returncode}; see {self.log}")

    def ends_with_a_sentence(self) -> None:
        """Wait until the driver has said that the control process is gone, and has ended."""
        began = time.monotonic()
        _wait(self._is_over, f"{self.directory.name} to notice")
        self.sentence_seconds = time.monotonic() - began
        assert self.driver is not None
        said = self.log.read_text().strip().splitlines()[-1]
        if (
            self.driver.returncode not in (1, 2)
            or "control process" not in said
            or "run the same command again" not in said
        ):
            raise fip.errors.RunError(
                f"{self.directory.name} ended with {self.driver.returncode} and {said!r}; see {self.log}"
            )

    def close(self) -> None:
        if self.driver and self.driver.poll() is None:
            self.driver.send_signal(signal.SIGCONT)
            self.driver.kill()
            self.driver.wait()

    def a_worker(self) -> int:
        _wait(lambda: bool(self.cluster.workers()), "a worker")
        return self.draws.choice(self.cluster.workers())

    def _is_over(self) -> bool:
        return self.driver is not None and self.driver.poll() is not None


def kills(run: Run) -> None:
    run.start()
    for moment, what in zip(run.moments(len(KILLED)), run.draws.sample(KILLED, len(KILLED)), strict=True):
        run.happened.append(f"{what} {run.until(moment)}")
        if what == "driver":
            run.close()
            run.start()
        elif what == "raylet":
            run.cluster.lose_one(run.draws)
            run.cluster.join()
        else:
            os.kill(run.a_worker(), signal.SIGKILL)
    run.finish()


def control(run: Run) -> None:
    run.start()
    run.happened.append(f"control {run.until(*run.moments(1))}")
    os.kill(run.cluster.control, signal.SIGKILL)
    run.ends_with_a_sentence()
    run.cluster.close()
    run.cluster.start()
    run.start()
    run.finish()


def control_local(run: Run) -> None:
    run.options = ("--address", "local", "--workers", "2")
    driver = run.start()
    run.happened.append(f"control {run.until(*run.moments(1))}")
    os.kill(_control(driver.pid), signal.SIGKILL)
    run.ends_with_a_sentence()
    run.start()
    run.finish()


def stopped_actor(run: Run) -> None:
    run.start()
    done, seconds = run.until(*run.moments(1)), run.draws.uniform(20, STOPPED_SECONDS)
    run.happened.append(f"worker stopped {done}, for {seconds:.0f} s")
    worker = run.a_worker()
    os.kill(worker, signal.SIGSTOP)
    time.sleep(seconds)
    if worker in run.cluster.workers():  # or it was taken for lost, and ended
        os.kill(worker, signal.SIGCONT)
    run.finish()


def stalled_actor(run: Run) -> None:
    run.start("--stall-seconds", str(STALL_SECONDS))
    run.happened.append(f"worker stopped {run.until(*run.moments(1))}")
    os.kill(run.a_worker(), signal.SIGSTOP)
    run.finish()
    run.happened[-1] += ", ended by the limit" if "was lost while running" in run.log.read_text() else ", without work"


def stopped_driver(run: Run) -> None:
    driver = run.start("--stall-seconds", str(STALL_SECONDS))
    run.happened.append(f"driver stopped {run.until(*run.moments(1))}, for {STOPPED_SECONDS:.0f} s")
    driver.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_SECONDS)
    driver.send_signal(signal.SIGCONT)
    run.finish()
    if "was lost" in run.log.read_text():
        raise fip.errors.RunError(
            f"{run.directory.name}: a driver that was stopped took workers for lost; see {run.log}"
        )


def two_drivers(run: Run) -> None:
    first = run.start("--workers", "2")
    second = run.start("--workers", "1")
    try:
        run.finish()
    finally:
        if run.driver is second:
            run.driver = first
    run.finish()
    store = Store.open(run.directory)
    contested = sum(len(store.attempts(id)) > 1 for id in store.committed())
    run.happened.append(f"two drivers, {contested} paths walked by both")
    if not contested:
        raise fip.errors.RunError(
            f"{run.directory.name}: the drivers did not overlap, so nothing was tried; see {run.log}"
        )


SCENARIOS: dict[str, Callable[[Run], None]] = {
    "kills": kills,
    "control": control,
    "control-local": control_local,
    "stopped-actor": stopped_actor,
    "stalled-actor": stalled_actor,
    "stopped-driver": stopped_driver,
    "two-drivers": two_drivers,
}


def examined(scenario: str, seed: int, run: Run, seconds: float, calm: analysis.Results) -> Record:
    """Compare what is left with an undisturbed run."""
    Store.open(run.directory).verify()
    found = analysis.load(run.directory)
    key = ["path_id", "step"]
    rows, expected = ({*map(tuple, results.points[key].to_numpy().tolist())} for results in (found, calm))
    equal = True
    for name in ("paths", "points"):
        one, other = (
            getattr(results, name).drop(columns=MAY_DIFFER & set(getattr(results, name))) for results in (found, calm)
        )
        equal = equal and one.equals(other)
    return Record(
        scenario=scenario,
        seed=seed,
        happened=", ".join(run.happened),
        sentence_seconds=run.sentence_seconds,
        seconds=seconds,
        drivers=run.drivers,
        attempts=int(found.paths["attempt"].sum()),
        points=len(found.points),
        lost=len(expected - rows),
        duplicated=int(found.points.duplicated(key).sum()),
        mixed=int((found.points.groupby("path_id")["attempt"].nunique() > 1).sum()),
        equal=equal,
    )


def survive(names: list[str], seeds: list[int], num_paths: int, folder: Path) -> Iterator[Record]:
    """Run all scenarios and seeds, with results and logs in `folder`; return a record of each."""
    with nodes() as cluster:
        if _driver(num_paths, folder / "calm", folder / "calm.log", "--runner", "local").wait():
            raise fip.errors.RunError(f"the undisturbed run failed; see {folder / 'calm.log'}")
        calm = analysis.load(folder / "calm")
        for name in names:
            for seed in seeds:
                began = time.monotonic()
                run = Run(cluster, random.Random(f"{name} {seed}"), num_paths, folder / f"{name}-{seed}")
                try:
                    SCENARIOS[name](run)
                finally:
                    run.close()
                yield examined(name, seed, run, time.monotonic() - began, calm)


def _driver(num_paths: int, directory: Path, log: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fipray.cli", "run", "benchmarks.cluster.chaos:study", "-p", f"paths={num_paths}"]
    with open(log, "ab") as stream:
        return subprocess.Popen(
            [*command, "--into", str(directory), *options], cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT
        )


def _raylets(node: subprocess.Popen[bytes]) -> list[int]:
    return [process for process in _children(node.pid) if _command(process).partition(" ")[0].endswith("/raylet")]


def _control(process: int) -> int:
    """Return the control process (GCS) that a process has started."""
    (found,) = (child for child in _children(process) if _command(child).partition(" ")[0].endswith("/gcs_server"))
    return found


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
            raise fip.errors.RunError(f"waited {PATIENCE_SECONDS:g} s for {what}")
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="kills alone, one seed, eight paths: within a minute")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--paths", type=int, default=24)
    parser.add_argument("--json", type=Path, help="write the records here")
    chosen = parser.parse_args()
    names, seeds, num_paths = (["kills"], [0], 8) if chosen.quick else (chosen.only, chosen.seeds, chosen.paths)
    columns = ("scenario", "seed", "happened, after commits", "sentence, s", "s", "drivers", "attempts", "points")
    table = Table(*columns, "lost", "twice", "mixed", "equal")
    records = []
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    for record in survive(names, seeds, num_paths, folder):
        records.append(record)
        sentence = "" if record.sentence_seconds is None else f"{record.sentence_seconds:.1f}"
        counts = (record.drivers, record.attempts, record.points, record.lost, record.duplicated, record.mixed)
        where = (record.scenario, str(record.seed), record.happened, sentence, f"{record.seconds:.0f}")
        table.add_row(*where, *map(str, counts), "yes" if record.equal else "NO")
        print(
            f"{record.scenario} {record.seed}: {record.happened}; sentence {sentence or 'none'}, lost {record.lost}, "
            f"equal {record.equal}",
            flush=True,
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(f"{sum(record.is_well for record in records)} of {len(records)} as they should be")
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(record) for record in records], indent=1))
    if all(record.is_well for record in records):
        shutil.rmtree(folder)
    else:
        raise SystemExit(f"not as it should be; results and logs are in {folder}")


if __name__ == "__main__":
    main()
