"""Ray that cannot start on a machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
from fipray.cluster.session import session
from fipray.errors import UsageError
try:
    with session("local"):
        pass
except UsageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("RAY_TMPDIR", "has too long a name for Ray's sockets: set RAY_TMPDIR=/tmp, or do without Ray: --runner local"),
        ("HOME", "set HOME to a folder that can be written, or do without Ray: --runner local"),
    ],
)
def test_ray_that_cannot_start_says_why_and_the_way_out(tmp_path, variable, sentence):
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
