"""What every test stands on: one thread, and one Ray session that nobody else can see."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import margins

os.environ.update(
    # Read by Ray when it is imported, which test modules do before any fixture runs. With a token in the environment
    # Ray neither makes nor reads one in the home directory.
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_USAGE_STATS_ENABLED="0",
    # As Ray does on macOS: the node's address is 127.0.0.1 and every socket is bound to it. Without this Ray takes
    # 127.0.0.1 for "find my outside address", and listens on all of them.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    # For the object store below, in whatever process asks it.
    AWS_ACCESS_KEY_ID="nobody",
    AWS_SECRET_ACCESS_KEY="nothing",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
)

pytest.register_assert_rewrite("fipray.testing")  # its assertions show both sides, as those of tests do


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("margins", "what tests/margins.py varies")
    group.addoption("--seed-shift", type=int, default=0, help="another seed everywhere, but in started processes")
    group.addoption("--threads", default="1", help="threads of torch and OpenBLAS")


def pytest_configure(config: pytest.Config) -> None:
    # Read by torch and OpenBLAS when they are loaded, which is later than this, and handed on to every process a test
    # starts: tests are small, and the threads of many processes on few cores only wait for each other.
    os.environ.update(dict.fromkeys(margins.THREADS, config.getoption("--threads")))
    margins.shift_seeds(config.getoption("--seed-shift"))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests are shared out to processes, one of them has the Ray session, and a file stays in one.

    `--dist loadgroup` would do that by marks, but does nothing with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneRaySession(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "ray" if _needs_ray(str(config.rootpath / file)) else file

    config.option.loadscopereorder = False  # files in the order below
    return OneRaySession(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with tests of Ray first: they take longest, and the other process does the rest meanwhile."""
    items.sort(key=lambda item: not _needs_ray(str(item.path)))


@cache
def _needs_ray(file: str) -> bool:
    return "ray_session" in Path(file).read_text(encoding="utf-8")


@pytest.fixture
def restored() -> Callable[[Any], Any]:
    """What becomes of an object in the JSON of a study; skips the test without pyarrow, which studies need."""
    pytest.importorskip("pyarrow")
    from fipray.study.canonical import from_json, to_json

    return lambda given: from_json(to_json(given))


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """HOST:PORT of a server on loopback that speaks S3's protocol, with a bucket named `bucket`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "{}:{}".format(*server.get_host_and_port())
        boto3.client("s3", endpoint_url=f"http://{endpoint}").create_bucket(Bucket="bucket")
        yield endpoint
    finally:
        server.stop()


@pytest.fixture
def bucket(object_store: str, request: pytest.FixtureRequest) -> str:
    """An address of results in the object store that no other test has."""
    name = f"{abs(hash(request.node.nodeid)):x}"
    return f"s3://bucket/{name}/results?endpoint_override={object_store}&scheme=http"


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that is connected to no cluster; an earlier test may have connected this one."""
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[dict[str, Any]]:
    """A Ray session of 2 CPUs for the tests alone: on loopback, behind a random token, with a home of its own.

    Yields what `ray.init` says of it; its "address" is what another process, with this one's environment, connects to.
    """
    import ray  # here, because it takes seconds to load and most tests do without

    # Directly under /tmp: the name of a Unix socket inside it may have 107 characters, and Ray adds about 64.
    directory = tempfile.mkdtemp(prefix="fr", dir="/tmp")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("RAY_ADDRESS", raising=False)
        environment.setenv("HOME", directory)  # otherwise Tune writes ~/ray_results
        try:
            context = ray.init(
                address="local",
                num_cpus=2,
                num_gpus=0,
                object_store_memory=200_000_000,
                include_dashboard=False,
                log_to_driver=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=directory,
            )
            yield context.address_info
        finally:
            ray.shutdown(wait_for_processes=True)
            shutil.rmtree(directory, ignore_errors=True)
