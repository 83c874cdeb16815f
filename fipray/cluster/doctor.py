"""Asks whether everything is there that a run needs: here, on the cluster, and where the results go.

Every question has a time limit, and a question that fails is a finding, not an error.
"""

from __future__ import annotations

import os
import queue
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import ray

from fipray.cluster import probes
from fipray.cluster.capacity import gpus_of_machine
from fipray.cluster.ray_runner import RayRunner
from fipray.errors import FiprayError
from fipray.records.files import check_place

LIBRARIES = ("fipray", "torch", "ray", "pyarrow", "pandas")
MUST_BE_EQUAL = ("python", "fipray", "torch", "ray", "pyarrow")  # on all nodes; workers load no pandas
PATIENCE_SECONDS = 30.0
LEAST_FREE_BYTES = 5e9


@dataclass(frozen=True)
class Finding:
    """What was found about something, and what to do where that is not well: without full stops."""

    state: Literal["ok", "warning", "problem"]
    about: str
    sentence: str
    remedy: str = ""


Findings = Iterable[Finding]


def examine(address: str | None = None, into: str | None = None) -> Iterator[Finding]:
    """Findings, one after the other, as they are made. `into`: a results directory, or the address of one."""
    if into is not None:
        check_place(into)
    yield from _in_time("versions", _versions)
    yield from _in_time("devices", _devices)
    address = address or os.environ.get("RAY_ADDRESS")
    with ExitStack() as connection:
        nodes: list[str] = []
        if address in (None, "local") and not ray.is_initialized():
            yield Finding("ok", "cluster", "none is named: a run starts a private one on this machine, behind a token")
        else:
            yield from _in_time("cluster", lambda: _connect(address or "this process", connection, nodes))
        if nodes:
            yield from _in_time("nodes", lambda: _nodes(probes.describe(*LIBRARIES)))
            yield from _in_time("token", _token)
            yield from _in_time("jobs API", lambda: _jobs_api(probes.dashboard_url()))
        if into is not None:
            yield from _in_time(
                "results", lambda: _results(into, nodes), "Give this user access to it, or name another place"
            )


def _in_time(about: str, ask: Callable[[], Findings], remedy: str = "", seconds: float = PATIENCE_SECONDS) -> Findings:
    """What asking found; a problem where it fails, or has no answer in time."""
    answers: queue.Queue[list[Finding]] = queue.Queue()

    def answer() -> None:
        try:
            answers.put(list(ask()))
        except Exception as error:
            said = str(error) if isinstance(error, FiprayError) else f"{type(error).__name__}: {error}"
            answers.put([Finding("problem", about, said, remedy)])

    threading.Thread(target=answer, daemon=True).start()  # one that hangs does not keep the process
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return [Finding("problem", about, f"no answer in {seconds:g} s", "See whether its machine and network are up")]


def _versions() -> Findings:
    there = probes.describe(*LIBRARIES)
    missing = [name for name in LIBRARIES if name not in there]
    yield Finding("ok", "versions", ", ".join(f"{name} {number}" for name, number in there.items()))
    if missing:
        yield Finding("problem", "versions", f"not installed: {', '.join(missing)}", "Install fipray with pip")


def _devices() -> Findings:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = gpus_of_machine()
    yield Finding("ok", "devices", f"{cores} CPU cores and {gpus} GPUs here")
    if gpus:
        import torch  # loads slowly: where there is a GPU alone

        if torch.cuda.is_available():
            names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
            yield Finding("ok", "CUDA", f"torch {torch.__version__} can use {', '.join(sorted(names))}")
        else:
            yield Finding(
                "problem",
                "CUDA",
                f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use the GPUs",
                "Update the driver, or install the torch that goes with it",
            )


def _connect(address: str, connection: ExitStack, nodes: list[str]) -> Findings:
    host = urlsplit(f"//{address}")
    if host.hostname and host.port and not ray.is_initialized():
        try:
            socket.create_connection((host.hostname, host.port), timeout=5).close()
        except OSError as error:
            yield Finding(
                "problem",
                "cluster",
                f"nothing listens at {address}: {error}",
                "Start a head there (ray start --head), open its port, or name another address",
            )
            return
    connection.enter_context(RayRunner(address).session())
    alive = [node for node in ray.nodes() if node["Alive"]]
    has = ray.cluster_resources()
    nodes += [node["NodeID"] for node in alive]
    memory = has.get("memory", 0) / 1e9
    num_nodes = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
    sentence = f"{num_nodes}, {has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs, {memory:.0f} GB of memory"
    yield Finding("ok", "cluster", f"{sentence}, from {address}")
    if not has.get("CPU"):
        yield Finding(
            "warning", "cluster", "no CPU is there for a worker", "An autoscaling cluster adds nodes; else add some"
        )


def _nodes(here: Mapping[str, str]) -> Findings:
    answers = probes.on_every_node(probes.describe, LIBRARIES, PATIENCE_SECONDS / 2)
    for host, there in answers.items():
        if isinstance(there, str):
            yield Finding("problem", f"node {host}", there, "See its log, and whether it has a CPU and memory free")
            continue
        others = [
            f"{name} {there[name]} (here {here[name]})" for name in MUST_BE_EQUAL if there.get(name) != here.get(name)
        ]
        if others:
            yield Finding(
                "problem", f"node {host}", f"has {', '.join(others)}", "Install the same versions on every node"
            )
    if all(not isinstance(there, str) for there in answers.values()):
        yield Finding("ok", "nodes", f"each carries out work ({len(answers)})")


def _token() -> Findings:
    """The mode of the nodes: a driver in token mode connects to a cluster without one as well."""
    answers = probes.on_every_node(probes.is_token_mode, (), PATIENCE_SECONDS / 2)
    if is_open := [node for node, is_on in answers.items() if is_on is not True]:
        yield Finding(
            "problem",
            "token",
            f"token mode is off on {', '.join(is_open)}: whoever reaches the ports can run code there",
            "Start every node with RAY_AUTH_MODE=token and the token; deploy/README.md says how",
        )
    else:
        yield Finding("ok", "token", "token mode is on: nobody uses the cluster without its token")


def _jobs_api(url: str | None) -> Findings:
    if url is None:
        yield Finding("ok", "jobs API", "the cluster has none: no jobs can be submitted")
        return
    without, with_token = probes.jobs_status(url, with_token=False), probes.jobs_status(url, with_token=True)
    if without == 200:
        yield Finding(
            "problem",
            "jobs API",
            f"open to everybody who reaches {url}, without a token",
            "Start every node with RAY_AUTH_MODE=token, and the head with --dashboard-host=127.0.0.1",
        )
    elif with_token == 200:
        yield Finding("ok", "jobs API", f"closed without the token, open with it, at {url}")
    elif isinstance(with_token, str):
        yield Finding(
            "warning", "jobs API", f"{url} does not answer: {with_token}", "Jobs cannot be submitted from here"
        )
    else:
        yield Finding("problem", "jobs API", f"{url} refuses this token (HTTP {with_token})", "Use the cluster's token")


def _results(into: str, nodes: list[str]) -> Findings:
    with probes.temporary_object(into) as (object_name, content):
        yield Finding("ok", "results", f"{into} can be written and read back")
        if "://" not in into:
            free = shutil.disk_usage(probes.existing(into)).free
            yield Finding(
                "ok" if free > LEAST_FREE_BYTES else "warning",
                "disk",
                f"{free / 1e9:.1f} GB free",
                "" if free > LEAST_FREE_BYTES else "Make room: weights of every kept point are written there",
            )
        if nodes:
            yield from _seen_by_nodes(into, object_name, content)


def _seen_by_nodes(into: str, object_name: str, content: bytes) -> Findings:
    answers = probes.on_every_node(probes.read, (object_name,), PATIENCE_SECONDS / 2)
    blind = {host: found for host, found in answers.items() if found != content}
    if blind:
        host, why = next(iter(blind.items()))
        yield Finding(
            "problem",
            "results",
            f"{into} was written, but is not seen by {', '.join(blind)} ({host}: {why!s})",
            "Use an object store (s3://...) that every node may use, or a disk that all share, at the same path",
        )
    else:
        yield Finding("ok", "results", f"every node reads it ({len(answers)})")
