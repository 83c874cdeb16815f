"""Whether a study survives a network that is cut: hosts on this machine, a real Ray node on each, one cut off silently.

    python -m benchmarks.cluster.cut [--quick] [--json FILE]

Host h0 is Ray's head and drives, h1 and h2 join it, each with room for one worker; all see one results directory. While
every host is in the middle of a path h2 is cut off:

    brief       for so short that nobody notices
    for ever    h0 and h1 do the rest
    beside      for longer than it takes to declare it dead, while another host, h3, has room for who takes over: both
                write the same path. Then it is healed, and joins again

Every table is compared, digests of weights included, with that of a run that nobody disturbed, and all that shows is
read again and again meanwhile. Ends with status 1 where a point is lost, doubled or different. Needs Linux, root and
iproute2; `benchmarks/cluster/hosts.py` says more.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from pyarrow.fs import FileSelector, FileSystem
from rich.console import Console
from rich.table import Table

from benchmarks.cluster.hosts import HOME, LOWERED, ROOT, Bridge, Host, Process, go_apart
from fipray import analysis
from fipray.records import TABLES, Store

MAY_DIFFER = {"attempt", "host", "node_id", "worker_id", "device", "seconds", "walk_seconds", "weights_file"}
POINTS = 20  # of a path, without its start
PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Case:
    """Seconds for which h2 is cut off: 0 for not at all, None for ever. with_room: h3 joins just before."""

    name: str
    seconds_cut: float | None
    with_room: bool = False

    @property
    def is_noticed(self) -> bool:
        return self.seconds_cut is None or self.seconds_cut > 10


UNDISTURBED, BRIEF, FOR_EVER = Case("undisturbed", 0), Case("brief", 2), Case("for ever", None)
BESIDE = Case("beside", 30, with_room=True)


@dataclass(frozen=True)
class Record:
    """Result of one case.

    lost, duplicated: (path, step) pairs; mixed: paths with rows of several attempts; repeated: paths whose second or a
    later
    attempt counts; written_beside: files that an attempt wrote after a later one had begun.
    """

    case: str
    seconds_cut: float | None
    exit_status: int | None
    paths: int
    points: int
    lost: int
    duplicated: int
    mixed: int
    equal: bool
    repeated: int
    written_beside: int
    seconds: float

    @property
    def is_sound(self) -> bool:
        return self.exit_status == 0 and self.equal and not (self.lost or self.duplicated or self.mixed)


class Cluster:
    """A real Ray node on each host."""

    def __init__(self, bridge: Bridge, num_hosts: int) -> None:
        self.bridge = bridge
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            **LOWERED,
            "HOME": str(HOME),
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
        }
        self._nodes: dict[Host, Process] = {}
        for host in bridge.hosts[:num_hosts]:
            self.join(host)

    @property
    def address(self) -> str:
        return f"{self.bridge.hosts[0].address}:6379"

    def join(self, host: Host) -> None:
        """Start a node on the host. Two hosts that join at once collide in their folder, so they join in turn."""
        role = ["--address", self.address]
        if host == self.bridge.hosts[0]:
            role = ["--head", "--port", "6379", "--include-dashboard=false"]
        size = ["--num-cpus", "1", "--num-gpus", "0", "--object-store-memory", "100000000"]
        ray = [str(Path(sys.executable).with_name("ray")), "start", *role, "--node-ip-address", host.address, *size]
        command = host.run(*ray, "--temp-dir", str(HOME / "ray"), "--block")
        self._nodes[host] = Process.start(command, HOME / f"{host.name}.log", self.environment)
        self._nodes[host].wait_until_it_says("Ray runtime started")

    def heal(self, host: Host, is_noticed: bool) -> None:
        """Heals the host; where it was declared dead its node ends when it learns of that, and another joins."""
        self.bridge.heal(host)
        deadline = time.monotonic() + 60
        while is_noticed and not self._nodes[host].has_ended and time.monotonic() < deadline:
            time.sleep(0.1)
        if self._nodes[host].has_ended:
            self.join(host)


def carried_out(cluster: Cluster, case: Case, knobs: Mapping[str, object], console: Console) -> tuple[Path, int | None]:
    """Run a case; return the results directory and the exit status, None if the command did not end."""
    head, cut_off, spare = (cluster.bridge.hosts[number] for number in (0, 2, 3))
    directory = HOME / case.name.replace(" ", "-")
    command = [sys.executable, "-m", "fipray.cli", "run", "benchmarks.cluster.slow:study", "--into", str(directory)]
    command += [part for name, value in knobs.items() for part in ("-p", f"{name}={value}")]
    command += ["--address", cluster.address, "--workers", "3"]
    driver = Process.start(head.run(*command), directory.with_suffix(".log"), cluster.environment)
    began = time.monotonic()

    def say(sentence: str) -> None:
        console.print(f"  {time.monotonic() - began:5.1f} s: {sentence}")

    def wait(until: Callable[[], bool]) -> None:
        while not (until() or driver.has_ended or time.monotonic() > began + PATIENCE_SECONDS):
            if (directory / "study.json").exists():
                Store.open(directory).verify()
            time.sleep(0.2)

    is_cut = case.seconds_cut != 0
    if is_cut:
        wait(lambda: num_walked(directory) == 3)
        if case.with_room:
            cluster.join(spare)
            say(f"{spare.name} joined")
            wait(lambda: num_walked(directory) == 3)
        cluster.bridge.cut(cut_off)
        say(f"{cut_off.name} is cut off")
        if case.seconds_cut:
            heal_at = time.monotonic() + case.seconds_cut
            wait(lambda: time.monotonic() > heal_at)
            cluster.heal(cut_off, case.is_noticed)
            say(f"{cut_off.name} is healed")
            is_cut = False
    wait(lambda: False)
    status = driver.popen.poll()
    say("the command still runs, and is given up" if status is None else f"the command ended with status {status}")
    driver.popen.kill()
    driver.popen.wait()
    for line in driver.said.splitlines() if status else [line for line in driver.said.splitlines() if "lost" in line]:
        console.print(f"         {line}", markup=False)
    if is_cut:
        cluster.heal(cut_off, case.is_noticed)
    return directory, status


def written(directory: Path | str) -> dict[tuple[str, int], list[float]]:
    """When points were written, in seconds since the epoch, by path and attempt."""
    filesystem, folder = FileSystem.from_uri(str(directory))
    times: dict[tuple[str, int], list[float]] = {}
    for info in filesystem.get_file_info(FileSelector(f"{folder}/weights", recursive=True, allow_not_found=True)):
        if found := re.search(r"weights/([^/]+)/(\d+)/step-", info.path):
            times.setdefault((found[1], int(found[2])), []).append(info.mtime.timestamp())
    return times


def num_walked(directory: Path | str) -> int:
    """Paths that have left their start and are far from their end."""
    return sum(1 < len(times) <= POINTS * 0.4 for times in written(directory).values())


def judged(case: Case, directory: Path | str, status: int | None, seconds: float, reference: Path) -> Record:
    """Compare results with the reference. Raises CorruptFileError if a committed file is damaged."""
    Store.open(directory).verify()
    results, expected = analysis.load(directory), analysis.load(reference)
    keys, wanted = (list(zip(r.points["path_id"], r.points["step"], strict=True)) for r in (results, expected))
    tables = [
        [getattr(r, name).drop(columns=MAY_DIFFER, errors="ignore") for name in TABLES] for r in (results, expected)
    ]
    times = written(directory)
    beside = [(its, times[path, attempt + 1]) for (path, attempt), its in times.items() if (path, attempt + 1) in times]
    return Record(
        case.name,
        case.seconds_cut,
        status,
        len(results.paths),
        len(keys),
        len(set(wanted) - set(keys)),
        len(keys) - len(set(keys)),
        int((results.points.groupby("path_id")["attempt"].nunique() > 1).sum()),
        all(one.equals(other) for one, other in zip(*tables, strict=True)),
        int((results.paths["attempt"] > 1).sum()),
        sum(time > min(later) for earlier, later in beside for time in earlier),
        seconds,
    )


def main(
    quick: Annotated[bool, typer.Option(help="Three paths a case instead of six, and without `for ever`.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records there.")] = None,
) -> None:
    """Cut, and say what is left."""
    go_apart()
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    knobs = {"paths": 3 if quick else 6, "points": POINTS, "pause_seconds": 0.4}
    cluster = Cluster(Bridge(("h0", "h1", "h2", "h3")), num_hosts=3)
    records: list[Record] = []
    for case in (UNDISTURBED, BRIEF, BESIDE) if quick else (UNDISTURBED, BRIEF, FOR_EVER, BESIDE):
        console.print(case.name)
        began = time.monotonic()
        directory, status = carried_out(cluster, case, knobs, console)
        seconds = time.monotonic() - began
        records.append(judged(case, directory, status, seconds, HOME / UNDISTURBED.name))
    print_records(records, console)
    if json_file:
        json_file.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")
    sys.exit(0 if all(record.is_sound for record in records) else 1)


def print_records(records: Sequence[Record], console: Console) -> None:
    table = Table(title="h2 is cut off in the middle of a path")
    for column in ("case", "cut, s", "exit", "paths", "points", "lost", "doubled", "mixed", "equal"):
        table.add_column(column)
    for column in ("by a later attempt", "files beside", "s"):
        table.add_column(column)
    for record in records:
        cut = "ever" if record.seconds_cut is None else f"{record.seconds_cut:g}"
        cells: list[object] = [record.exit_status, record.paths, record.points, record.lost, record.duplicated]
        cells += [
            record.mixed,
            "yes" if record.equal else "NO",
            record.repeated,
            record.written_beside,
            f"{record.seconds:.0f}",
        ]
        table.add_row(record.case, cut, *(str(cell) for cell in cells))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
