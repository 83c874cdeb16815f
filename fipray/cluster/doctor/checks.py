"""Checks of everything that a run needs: on this machine, on the cluster, and at the results directory.

Every check has a time limit, and a check that fails is a finding, not an exception.
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

from fipray.cluster.capacity import labels_of_nodes, num_local_gpus
from fipray.cluster.doctor import probes
from fipray.cluster.runner import RayRunner
from fipray.errors import FiprayError
from fipray.records.files import check_place

LIBRARIES = ("fipray", "torch", "ray", "pyarrow", "pandas")
EQUAL_VERSIONS = ("python", "fipray", "torch", "ray", "pyarrow")  # on all nodes; workers do not load pandas
TIMEOUT_SECONDS = 30.0
MIN_FREE_BYTES = 5e9


@dataclass(frozen=True)
class Finding:
    """Result of a check.

    Args:
        state: "ok", "warning", or "problem" for what would make a run fail.
        about: subject of the check.
        sentence: what was found, without a full stop.
        remedy: what to do about it, without a full stop; empty if nothing.
    """

    state: Literal["ok", "warning", "problem"]
    about: str
    sentence: str
    remedy: str = ""


Findings = Iterable[Finding]


def examine(address: str | None = None, into: str | None = None) -> Iterator[Finding]:
    """Run all checks, each in at most 30 seconds.

    Args:
        address: address of a Ray cluster; None for RAY_ADDRESS, or no cluster.
        into: results directory, or an address such as `s3://bucket/results`; None checks none.

    Yields:
        Findings, as soon as they are made.

    Raises:
        UsageError: if `into` names no directory.
    """
    if into is not None:
        check_place(into)
    yield from _within_time("versions", _versions)
    yield from _within_time("devices", _devices)
    address = address or os.environ.get("RAY_ADDRESS")
    with ExitStack() as connection:
        nodes: list[str] = []
        if address in (None, "local") and not ray.is_initialized():
            yield Finding(
                "ok", "cluster", "no address given: a run starts a private session on this machine, behind a token"
            )
        else:
            yield from _within_time("cluster", lambda: _connect(address or "this process", connection, nodes))
        if nodes:
            yield from _within_time("nodes", lambda: _nodes(probes.describe(*LIBRARIES)))
            yield from _within_time("token", _token)
            yield from _within_time("jobs API", lambda: _jobs_api(probes.dashboard_url()))
        if into is not None:
            yield from _within_time(
                "results", lambda: _results(into, nodes), "Give this user access to it, or choose another place"
            )


def _within_time(
    about: str, check: Callable[[], Findings], remedy: str = "", seconds: float = TIMEOUT_SECONDS
) -> Findings:
    """Return the findings of a check; a problem if it raises or takes too long."""
    answers: queue.Queue[list[Finding]] = queue.Queue()

    def answer() -> None:
        try:
            answers.put(list(check()))
        except Exception as error:
            message = str(error) if isinstance(error, FiprayError) else f"{type(error).__name__}: {error}"
            answers.put([Finding("problem", about, message, remedy)])

    threading.Thread(target=answer, daemon=True).start()  # a daemon: a check that hangs must not keep the process alive
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return [Finding("problem", about, f"no answer within {seconds:g} s", "Check that its host and network are up")]


def _versions() -> Findings:
    installed = probes.describe(*LIBRARIES)
    missing = [name for name in LIBRARIES if name not in installed]
    yield Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in installed.items()))
    if missing:
        yield Finding("problem", "versions", f"not installed: {', '.join(missing)}", "Install fipray with pip")


def _devices() -> Findings:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = num_local_gpus()
    yield Finding("ok", "devices", f"{cores} CPU cores and {gpus} GPUs on this machine")
    if gpus:
        import torch  # it loads slowly, and says nothing of a machine without GPUs

        if torch.cuda.is_available():
            names = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
            yield Finding("ok", "CUDA", f"torch {torch.__version__} can use {', '.join(sorted(names))}")
        else:
            yield Finding(
                "problem",
                "CUDA",
                f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use the GPUs",
                "Update the driver, or install a build of torch that matches it",
            )


def _connect(address: str, connection: ExitStack, nodes: list[str]) -> Findings:
    url = urlsplit(f"//{address}")
    # Asked first, because ray.init retries for minutes where nothing listens.
    if url.hostname and url.port and not ray.is_initialized():
        try:
            socket.create_connection((url.hostname, url.port), timeout=5).close()
        except OSError as error:
            yield Finding(
                "problem",
                "cluster",
                f"could not connect to {address}: {error}",
                "Start a head node there (ray start --head), open its port, or give another address",
            )
            return
    connection.enter_context(RayRunner(address).session())
    alive = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    nodes += [node["NodeID"] for node in alive]
    memory = total.get("memory", 0) / 1e9
    num_nodes = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}"
    sentence = f"{num_nodes}, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs, {memory:.0f} GB of memory"
    yield Finding("ok", "cluster", f"{sentence}, at {address}")
    if labels := labels_of_nodes():
        yield Finding("ok", "labels", f"of nodes, for --label: {labels}")
    if not total.get("CPU"):
        yield Finding(
            "warning", "cluster", "no CPU is available for a worker", "Add nodes, unless an autoscaler does so"
        )


def _nodes(here: Mapping[str, str]) -> Findings:
    answers = probes.on_every_node(probes.describe, LIBRARIES, TIMEOUT_SECONDS / 2)
    for host, versions in answers.items():
        if isinstance(versions, str):
            yield Finding(
                "problem", f"node {host}", versions, "See its logs, and check that it has a free CPU and memory"
            )
            continue
        different = [
            f"{name} {versions[name]} (here {here[name]})"
            for name in EQUAL_VERSIONS
            if versions.get(name) != here.get(name)
        ]
        if different:
            yield Finding(
                "problem", f"node {host}", f"has {', '.join(different)}", "Install the same versions on every node"
            )
    if all(not isinstance(versions, str) for versions in answers.values()):
        yield Finding("ok", "nodes", f"every node runs tasks ({len(answers)})")


def _token() -> Findings:
    """Check token authentication on the nodes: a driver in token mode connects to a cluster without one as well."""
    answers = probes.on_every_node(probes.is_token_mode, (), TIMEOUT_SECONDS / 2)
    if is_open := [node for node, is_on in answers.items() if is_on is not True]:
        yield Finding(
            "problem",
            "token",
            f"token authentication is off on {', '.join(is_open)}: everyone who reaches its ports can run code there",
            "Start every node with RAY_AUTH_MODE=token and the token; see deploy/README.md",
        )
    else:
        yield Finding("ok", "token", "token authentication is on")


def _jobs_api(url: str | None) -> Findings:
    if url is None:
        yield Finding("ok", "jobs API", "the cluster has none, so no jobs can be submitted")
        return
    without, with_token = probes.jobs_status(url, with_token=False), probes.jobs_status(url, with_token=True)
    if without == 200:
        yield Finding(
            "problem",
            "jobs API",
            f"open without a token to everyone who reaches {url}",
            "Start every node with RAY_AUTH_MODE=token, and the head with --dashboard-host=127.0.0.1",
        )
    elif with_token == 200:
        yield Finding("ok", "jobs API", f"requires the token, at {url}")
    elif isinstance(with_token, str):
        yield Finding(
            "warning", "jobs API", f"{url} does not answer: {with_token}", "Jobs cannot be submitted from here"
        )
    else:
        yield Finding("problem", "jobs API", f"{url} rejects this token (HTTP {with_token})", "Use the cluster's token")


def _results(into: str, nodes: list[str]) -> Findings:
    with probes.temporary_object(into) as (object_name, content):
        yield Finding("ok", "results", f"{into} can be written and read")
        if "://" not in into:
            free = shutil.disk_usage(probes.existing(into)).free
            yield Finding(
                "ok" if free > MIN_FREE_BYTES else "warning",
                "disk",
                f"{free / 1e9:.1f} GB free",
                "" if free > MIN_FREE_BYTES else "Free some space: the weights of every saved point are written there",
            )
        if nodes:
            yield from _visible_to_nodes(into, object_name, content)


def _visible_to_nodes(into: str, object_name: str, content: bytes) -> Findings:
    answers = probes.on_every_node(probes.read, (object_name,), TIMEOUT_SECONDS / 2)
    blind = {host: found for host, found in answers.items() if found != content}
    if blind:
        host, reason = next(iter(blind.items()))
        yield Finding(
            "problem",
            "results",
            f"{into} is not visible to {', '.join(blind)} ({host}: {reason!s})",
            "Use an object store (s3://...) that every node can access, or a shared disk at the same path on all nodes",
        )
    else:
        yield Finding("ok", "results", f"every node can read it ({len(answers)})")
