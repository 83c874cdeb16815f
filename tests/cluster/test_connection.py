"""Connection to a cluster, private sessions, and the token file."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import ray

import fipray as fip
from fipray.cluster import connection

SCRIPT = """
from fipray.cluster.connection import connect
from fipray.errors import UsageError
try:
    with connect("local"):
        pass
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("RAY_TMPDIR", "is too long for Ray's sockets: set RAY_TMPDIR=/tmp, or run without Ray: --runner local"),
        ("HOME", "set HOME to a writable folder, or run without Ray: --runner local"),
    ],
)
def test_connect_names_the_cause_and_the_remedy_if_ray_cannot_start(tmp_path, variable, sentence):
    if variable == "HOME":
        place = tmp_path / "file"
        place.touch()  # even root cannot make a directory in a file
    else:
        place = tmp_path / ("a" * 100)
        place.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, variable: str(place), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("Ray could not start on this machine (")
    assert sentence in done.stdout


def test_connect_refuses_an_address_without_a_listener_at_once():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(fip.errors.UsageError, match="the connection is refused"):
            connection._check_listens(f"ray://127.0.0.1:{bound.getsockname()[1]}")


class TestToken:
    @pytest.fixture
    def home(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
            monkeypatch.delenv(name, raising=False)
        return tmp_path

    def test_file_is_created_for_its_owner_alone(self, home):
        connection.secure_token_file()
        file = home / ".ray" / "auth_token"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(file.read_text()) >= 32

    def test_file_that_others_can_read_is_closed_and_kept_even_if_ray_cannot_start(self, home, monkeypatch):
        file = home / ".ray" / "auth_token"
        file.parent.mkdir()
        file.write_text("a" * 64)
        file.chmod(0o644)

        def refuse(**_: object) -> None:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            raise RuntimeError("it cannot start")

        monkeypatch.setattr(ray, "init", refuse)
        monkeypatch.setattr(ray, "shutdown", lambda: None)  # the session that other tests share stays
        with pytest.raises(Exception, match="it cannot start"), connection._private_session():
            pass
        assert file.read_text() == "a" * 64
