"""A whole deployment rehearsed on this machine: `ray up` over ssh, three hosts with disks of their own, results in S3.

    python -m benchmarks.cluster.rehearsal [--quick] [--into ADDRESS] [--json FILE]

Four hosts are namespaces with an sshd, processes and an empty /root and /tmp of their own. From the fourth, the desk,
`ray up` brings a cluster up on the other three by its local provider, and `ray job submit --working-dir` gives it a
study whose module is in the working directory alone. Results go to an object store, which moto serves. In the middle of
a path one of the hosts is cut off silently, and healed later. What is there in the end is compared, digests of weights
included, with what the same study leaves in a process without Ray. Every phase is timed.

Needs Linux, root, iproute2, openssh, rsync and moto[server]. `--into` takes a directory too, which all share.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from benchmarks.cluster.cut import POINTS, Case, judged, num_walked, print_records
from benchmarks.cluster.hosts import HOME, LOWERED, ROOT, Bridge, Host, Process, go_apart, ssh, start_machine

BIN = Path(sys.executable).parent
STUDY = "walks"  # the module in the working directory
CUT = Case("h2 is cut off", 30)
BUCKET = "rehearsal"
STORE = {
    "AWS_ENDPOINT_URL": f"http://{Bridge.address}:5000",
    "AWS_ACCESS_KEY_ID": "rehearsal",
    "AWS_SECRET_ACCESS_KEY": "rehearsal",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
SINGLE = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Phase:
    """What was done, and how long it took."""

    name: str
    seconds: float


class Rehearsal:
    """Three hosts and a desk, and what was done so far."""

    def __init__(self, shared: list[Path]) -> None:
        self.console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        self.phases: list[Phase] = []
        self.bridge = Bridge(("h0", "h1", "h2", "desk"))
        *self.hosts, self.desk = self.bridge.hosts
        with self.phase("machines start"):
            for host in self.bridge.hosts:
                start_machine(host, {"LANG": "C.UTF-8"}, shared)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.phases.append(Phase(name, time.monotonic() - began))
        self.console.print(f"{self.phases[-1].seconds:7.1f} s  {name}")

    def on(self, host: Host, command: str, given: str = "") -> str:
        """Run a command on a host and return its output. Raises RuntimeError if it fails."""
        done = subprocess.run(ssh(host, f"{EXPORTS}; {command}"), input=given, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{command}\nended with {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}")
        return done.stdout + done.stderr

    def start_at_desk(self, command: str, name: str) -> Process:
        return Process.start(ssh(self.desk, f"{EXPORTS}; {command}"), HOME / f"{name}.log", os.environ)

    def wait(self, until: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not until():
            if time.monotonic() > deadline:
                logs = "ray status; tail -n 40 /tmp/ray/session_latest/logs/monitor.*; true"
                raise RuntimeError(
                    f"waited {PATIENCE_SECONDS} s for {what}; the head says\n{self.on(self.hosts[0], logs)}"
                )
            time.sleep(0.5)


_SHELL = {
    "PATH": f"{BIN}:$PATH",
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    **LOWERED,
    **SINGLE,
}
EXPORTS = "export " + " ".join(f'{name}="{value}"' for name, value in _SHELL.items())


def configured(rehearsal: Rehearsal) -> dict[str, Any]:
    """deploy/on-premise.yaml for these hosts, which have fipray already and little room."""
    made: dict[str, Any] = yaml.safe_load((ROOT / "deploy/on-premise.yaml").read_text())
    head, *workers = (host.address for host in rehearsal.hosts)
    made["provider"] |= {"head_ip": head, "worker_ips": workers}
    made["auth"] = {"ssh_user": "root", "ssh_private_key": "/run/key"}
    made["file_mounts"] = {name: file for name, file in made["file_mounts"].items() if "token" in name}
    made["setup_commands"] = [command for command in made["setup_commands"] if not command.startswith("make")]
    made["setup_commands"] += [f"grep -q PYTHONPATH ~/.bashrc || echo '{EXPORTS}' >> ~/.bashrc"]
    size = "--num-cpus=1 --num-gpus=0 --object-store-memory=100000000"
    for commands in (made["head_start_ray_commands"], made["worker_start_ray_commands"]):
        commands[-1] += f" {size}"
    return made


def num_nodes(rehearsal: Rehearsal) -> int:
    active = re.search(r"Active:(.*?)Pending:", rehearsal.on(rehearsal.hosts[0], "ray status || true"), re.DOTALL)
    return sum(map(int, re.findall(r"^ (\d+) ", active[1], re.MULTILINE))) if active else 0


def brought_up(rehearsal: Rehearsal) -> int:
    """How many times `ray up` was tried. Ray gives a node 30 s to start, which a busy machine may not keep."""
    for tries in (1, 2, 3):
        try:
            rehearsal.on(rehearsal.desk, "RAY_UP_enable_autoscaler_v2=0 ray up cluster.yaml -y --no-config-cache")
            break
        except RuntimeError:
            if tries == 3:
                raise
    return tries


def submitted(rehearsal: Rehearsal, into: str, knobs: list[str]) -> Process:
    environment = json.dumps({"env_vars": STORE})
    entrypoint = f"fipray run {STUDY}:study --address auto --into {into} --workers 3 {' '.join(knobs)}"
    return rehearsal.start_at_desk(
        "ray job submit --address http://localhost:8265 --submission-id walks --working-dir working "
        f"--runtime-env-json '{environment}' -- {entrypoint}",
        "job",
    )


def main(
    quick: Annotated[bool, typer.Option(help="Three paths instead of six.")] = False,
    into: Annotated[str, typer.Option(help="Where results go.")] = f"s3://{BUCKET}/walks",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write phases and record there.")] = None,
) -> None:
    """Rehearse, and say what is left."""
    go_apart("sshd", "ssh", "ssh-keygen", "rsync")
    os.environ.update(STORE)
    rehearsal = Rehearsal([] if "://" in into else [Path(into).parent])
    if "://" in into:
        with rehearsal.phase("the object store starts"):
            serve_objects()
    working = HOME / "working"
    working.mkdir()
    shutil.copy(ROOT / "benchmarks/cluster/slow.py", working / f"{STUDY}.py")
    knobs = [f"-p paths={3 if quick else 6}", f"-p points={POINTS}", "-p pause_seconds=0.4"]
    alone = HOME / "alone"
    command = ["run", f"{STUDY}:study", "--runner", "local", "--into", str(alone), *" ".join(knobs).split()]
    environment = {**os.environ, **SINGLE, "PYTHONPATH": f"{ROOT}:{working}"}
    reference = Process.start([sys.executable, "-m", "fipray.cli", *command], HOME / "alone.log", environment)

    rehearsal.on(rehearsal.desk, "mkdir -p .ray && umask 077 && cat > .ray/auth_token", secrets.token_hex(32))
    rehearsal.on(rehearsal.desk, "cat > cluster.yaml", yaml.safe_dump(configured(rehearsal), width=10000))
    rehearsal.on(rehearsal.desk, f"mkdir working && cat > working/{STUDY}.py", (working / f"{STUDY}.py").read_text())
    with rehearsal.phase("ray up"):
        tries = brought_up(rehearsal)
    if tries > 1:
        rehearsal.console.print(f"           (tried {tries} times)")
    with rehearsal.phase("all three nodes are there"):
        rehearsal.wait(lambda: num_nodes(rehearsal) == 3, "three nodes")
    dashboard = rehearsal.start_at_desk("ray dashboard cluster.yaml --no-config-cache", "dashboard")
    with rehearsal.phase("the jobs API answers"):
        rehearsal.wait(lambda: answers(rehearsal), "the jobs API")
    began = time.monotonic()
    with rehearsal.phase("the job is submitted, and every host is in the middle of a path"):
        job = submitted(rehearsal, into, knobs)
        rehearsal.wait(lambda: job.has_ended or num_walked(into) == 3, "walkers on three hosts")
    rehearsal.bridge.cut(rehearsal.hosts[2])
    with rehearsal.phase("h2 is cut off"):
        time.sleep(CUT.seconds_cut or 0)
    rehearsal.bridge.heal(rehearsal.hosts[2])
    with rehearsal.phase("the job ends"):
        rehearsal.wait(lambda: job.has_ended, f"the job:\n{job.said[-4000:]}")
    seconds = time.monotonic() - began
    rehearsal.console.print(job.said, markup=False)
    with rehearsal.phase("the cluster has three nodes again"):
        rehearsal.wait(lambda: num_nodes(rehearsal) == 3, "the third node")
    with rehearsal.phase("ray down"):
        dashboard.popen.terminate()
        rehearsal.on(rehearsal.desk, "RAY_UP_enable_autoscaler_v2=0 ray down cluster.yaml -y")
    with rehearsal.phase("the same study in one process has ended, which began with `ray up`"):
        rehearsal.wait(lambda: reference.has_ended, f"the same study in one process:\n{reference.said[-4000:]}")
    record = judged(CUT, into, job.popen.poll(), seconds, alone)
    print_records([record], rehearsal.console)
    if json_file:
        phases = [asdict(phase) for phase in rehearsal.phases]
        json_file.write_text(json.dumps({"record": asdict(record), "phases": phases}, indent=1) + "\n")
    sys.exit(0 if record.is_sound else 1)


def answers(rehearsal: Rehearsal) -> bool:
    try:
        rehearsal.on(rehearsal.desk, "ray job list --address http://localhost:8265")
    except RuntimeError:
        return False
    return True


def serve_objects() -> None:
    """Serve an object store with an empty bucket on the bridge."""
    import boto3

    port = STORE["AWS_ENDPOINT_URL"].rpartition(":")[2]
    server = [sys.executable, "-m", "moto.server", "-H", Bridge.address, "-p", port]
    Process.start(server, HOME / "moto.log", os.environ).wait_until_it_says("Running on")
    boto3.client("s3").create_bucket(Bucket=BUCKET)


if __name__ == "__main__":
    typer.run(main)
