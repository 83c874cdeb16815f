"""What the doctor asks others: every node by a tiny task, the dashboard by HTTP, the place of results by an object.

Nodes are sent the functions themselves, so that one without fipray can say so.
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
    """Versions of Python and of the libraries that are installed, without their builds such as +cu130."""
    there = {"python": platform.python_version()}
    for name in libraries:
        with suppress(PackageNotFoundError):
            there[name] = version(name).split("+")[0]
    return there


def is_token_mode() -> bool:
    """Whether the node of this process was started in token mode."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def read(name: str) -> bytes:
    """The content of an object or a file."""
    system, place = _place(name)
    with system.open_input_stream(place) as stream:
        return bytes(stream.read())


def on_every_node(ask: Callable[..., Any], arguments: tuple[str, ...], seconds: float) -> dict[str, Any]:
    """What `ask` returns on each node that is alive, by node; as a text why there is no answer."""

    def carry_out() -> Any:
        return ask(*arguments)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        carrier = ray.remote(num_cpus=0, max_retries=0)(carry_out)
        asked = {
            f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})": carrier.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote()
            for node in ray.nodes()
            if node["Alive"]
        }
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    return {host: _answer(ref) if ref in done else f"no answer in {seconds:g} s" for host, ref in asked.items()}


def _answer(ref: ray.ObjectRef) -> Any:
    try:
        return ray.get(ref)
    except Exception as error:  # whatever went wrong there
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def dashboard_url() -> str | None:
    """Of the cluster that this process is connected to."""
    from ray._private.worker import get_dashboard_url  # no public name in Ray 2.60

    address = get_dashboard_url()
    return f"http://{address}" if address else None


def jobs_status(url: str, *, with_token: bool) -> int | str:
    """The HTTP status that the jobs API answers with; as a text why there is none."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    headers = get_auth_headers_if_auth_enabled({}) if with_token else {}
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(urllib.request.Request(f"{url}/api/jobs/", headers=headers), timeout=HTTP_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return str(error)


@contextmanager
def temporary_object(into: str) -> Iterator[tuple[str, bytes]]:
    """An object that is there for as long as this context, by its name; what it holds was read back.

    Directories that are made for it are removed again.
    """
    content = f"{socket.gethostname()} {secrets.token_hex(16)}".encode()
    name = f"{into.rstrip('/')}/.fipray-{secrets.token_hex(8)}-doctor"
    made = _make_directory(Path(into).expanduser().absolute()) if "://" not in into else []
    try:
        system, place = _place(name)
        with system.open_output_stream(place) as stream:
            stream.write(content)
        try:
            found = read(name)
            if found != content:
                raise OSError(f"{name} was written with {content!r} and read back as {found!r}")
            yield name, content
        finally:
            system.delete_file(place)
    finally:
        for directory in made:
            with suppress(OSError):
                directory.rmdir()


def existing(into: str) -> Path:
    """The directory, or the nearest of its parents that is there."""
    directory = Path(into).expanduser().absolute()
    return next(each for each in (directory, *directory.parents) if each.is_dir())


def _make_directory(directory: Path) -> list[Path]:
    """The directories that were made, the deepest first."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing


def _place(name: str) -> tuple[Any, str]:
    """The file system of an address or a file, and its name there."""
    from pyarrow import fs

    if "://" not in name:
        return fs.LocalFileSystem(), str(Path(name).expanduser().absolute())
    # An endpoint stands behind the directory: s3://bucket/directory?endpoint_override=HOST:PORT&scheme=http
    head, mark, options = name.partition("?")
    if mark:
        options, _, last = options.partition("/")
        head += f"/{last}"
    system, place = fs.FileSystem.from_uri(f"{head}{mark}{options}")
    return system, place
