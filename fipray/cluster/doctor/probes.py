"""Probes of the doctor: tasks on every node, requests to the dashboard, and a test object in the results directory.

Functions that run on nodes are pickled by value, so that a node without fipray can report that too.
"""

from __future__ import annotations

import os
import platform
import secrets
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

HTTP_SECONDS = 5.0


def describe(*libraries: str) -> dict[str, str]:
    """Look up installed versions.

    Args:
        *libraries: names of distributions.

    Returns:
        Versions of Python and of the installed libraries, without build tags such as +cu130.
    """
    found = {"python": platform.python_version()}
    for name in libraries:
        with suppress(PackageNotFoundError):
            found[name] = version(name).split("+")[0]
    return found


def is_token_mode() -> bool:
    """Check whether the node of this process was started with token authentication."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def read(name: str) -> bytes:
    """Read an object or a file.

    Args:
        name: address or path.

    Returns:
        Its content.
    """
    system, path = _resolve(name)
    with system.open_input_stream(path) as stream:
        return bytes(stream.read())


def on_every_node(function: Callable[..., Any], arguments: tuple[str, ...], seconds: float) -> dict[str, Any]:
    """Call a function in a task on each node that is alive.

    Args:
        function: a function of this module.
        arguments: its arguments.
        seconds: time limit for all nodes together.

    Returns:
        Results by node, "HOST (ID)"; an error message, as a string, for a node that gave none.
    """

    def call() -> Any:
        return function(*arguments)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(call)  # without a CPU, so that a fully used node answers too
        refs = {
            f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})": task.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote()
            for node in ray.nodes()
            if node["Alive"]
        }
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ready, _ = ray.wait(list(refs.values()), num_returns=len(refs), timeout=seconds)
    return {host: _result(ref) if ref in ready else f"no answer within {seconds:g} s" for host, ref in refs.items()}


def _result(ref: ray.ObjectRef) -> Any:
    try:
        return ray.get(ref)
    except Exception as error:  # any exception of the task or of Ray
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def dashboard_url() -> str | None:
    """Return the URL of the connected cluster's dashboard; None if it has none."""
    from ray._private.worker import get_dashboard_url  # Ray 2.60 has no public name for it

    address = get_dashboard_url()
    return f"http://{address}" if address else None


def jobs_status(url: str, *, with_token: bool) -> int | str:
    """Request the list of jobs from the jobs API.

    Args:
        url: URL of the dashboard.
        with_token: whether to send this user's token.

    Returns:
        HTTP status; an error message, as a string, if there was no response.
    """
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    headers = get_auth_headers_if_auth_enabled({}) if with_token else {}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would not reach the cluster
    request = urllib.request.Request(f"{url}/api/jobs/", headers=headers)
    try:
        with direct.open(request, timeout=HTTP_SECONDS) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return str(error)


@contextmanager
def temporary_object(into: str) -> Iterator[tuple[str, bytes]]:
    """Write an object into a results directory and read it back; it is removed at the end.

    Args:
        into: directory or address. Missing directories are created, and removed at the end.

    Yields:
        Name and content of the object.

    Raises:
        OSError: if it cannot be written, or is read back with other content.
    """
    content = f"{socket.gethostname()} {secrets.token_hex(16)}".encode()
    name = f"{into.rstrip('/')}/.fipray-{secrets.token_hex(8)}-doctor"
    created = _create_directory(Path(into).expanduser().absolute()) if "://" not in into else []
    try:
        system, path = _resolve(name)
        with system.open_output_stream(path) as stream:
            stream.write(content)
        try:
            found = read(name)
            if found != content:
                raise OSError(f"{name} was written with {content!r} and read back as {found!r}")
            yield name, content
        finally:
            system.delete_file(path)
    finally:
        for directory in created:
            with suppress(OSError):
                directory.rmdir()


def existing(into: str) -> Path:
    """Find the nearest existing directory.

    Args:
        into: path of a directory.

    Returns:
        The directory itself, or its nearest parent that exists.
    """
    directory = Path(into).expanduser().absolute()
    return next(each for each in (directory, *directory.parents) if each.is_dir())


def _create_directory(directory: Path) -> list[Path]:
    """Create a directory and its parents; returns those that were missing, the deepest first."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing


def _resolve(name: str) -> tuple[Any, str]:
    """File system of an address or a local path, and the path within it."""
    from pyarrow import fs

    if "://" not in name:
        return fs.LocalFileSystem(), str(Path(name).expanduser().absolute())
    # The name was appended to an address with options: s3://bucket/directory?endpoint_override=HOST:PORT&scheme=http
    head, mark, options = name.partition("?")
    if mark:
        options, _, last = options.partition("/")
        head += f"/{last}"
    system, path = fs.FileSystem.from_uri(f"{head}{mark}{options}")
    return system, path
