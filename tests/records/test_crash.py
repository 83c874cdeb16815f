"""Crash safety: after a writer is killed at any moment, the directory is valid and the next run completes it."""

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fipray.errors import RecordsError
from fipray.records import Store
from tests.records.rows import STUDY
from tests.records.writer import MANIFEST, NUM_POINTS, write_study

ROOT = Path(__file__).parents[2]


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a Python process at the root of the project, with pipes for its input and output."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def check_every_step_once(store: Store) -> None:
    wanted = [(id, step) for id in sorted(store.committed()) for step in range(NUM_POINTS)]
    points = store.read_table("points").to_pylist()
    assert [(row["path_id"], row["step"]) for row in points] == wanted
    assert {(row["path_id"], row["attempt"]) for row in points} == {
        (id, store.commit_record(id)["attempts"][id]) for id in store.committed()
    }
    assert [row["path_id"] for row in store.read_table("paths").to_pylist()] == sorted(store.committed())


def check_survivor(directory: Path, num_paths: int) -> None:
    """Check that a directory can be read as it is, opened for writing, and completed."""
    try:
        store = Store.open(directory)
    except RecordsError:
        assert not (directory / "study.json").exists()
    else:
        store.verify()
        check_every_step_once(store)
    store = Store.create_or_open(directory, MANIFEST)
    assert not [*directory.rglob(".fipray-*")]
    if store.committed():
        plain = pd.read_parquet(directory / "points")
        assert sorted(set(plain["path_id"])) == sorted(store.committed())
    else:
        assert not [*directory.rglob("*.parquet")]
    before = store.committed()
    write_study(directory, num_paths)
    store.verify()
    assert before <= store.committed() == {f"id{number}" for number in range(num_paths)}
    check_every_step_once(store)
    assert not pd.read_parquet(directory / "points").duplicated(["path_id", "step"]).any()


@pytest.mark.parametrize("line", [1, 3, 4, 7])
def test_writer_killed_after_any_line_leaves_a_valid_directory(line, tmp_path):
    with start("-m", "tests.records.writer", tmp_path / "results") as writer:
        said = [writer.stdout.readline() for _ in range(line)]
        writer.send_signal(signal.SIGKILL)
    assert writer.returncode == -signal.SIGKILL
    finished = {words[0] for words in map(str.split, said) if words[-1] == "committed"}
    assert finished <= Store.open(tmp_path / "results").committed()
    check_survivor(tmp_path / "results", 3)


@pytest.mark.slow
def test_writer_killed_before_any_system_call_leaves_a_valid_directory(tmp_path):
    with start("-m", "tests.records.writer", "--dying", tmp_path) as writer:
        pass
    assert writer.returncode == 0
    directories = sorted(tmp_path.iterdir(), key=lambda directory: int(directory.name))
    assert len(directories) > 30
    for directory in directories:
        check_survivor(directory, 1)


COMMIT_MANY = """
import sys
from fipray.records import Store
from tests.records.rows import path_row, point_rows
from tests.records.writer import do_without_pandas

do_without_pandas()
store, attempt = Store.open(sys.argv[1]), int(sys.argv[2])
for line in sys.stdin:
    id = line.strip()
    points = point_rows(id, attempt=attempt, num_points=50 * attempt)
    rows = {"paths": [path_row(id, attempt=attempt)], "points": points}
    sys.stdout.write(f"{store.commit(id, 'path', attempt, rows)}\\n")
    sys.stdout.flush()
"""


def test_concurrent_commits_of_one_id_leave_exactly_one(tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    winners = {}
    with start("-c", COMMIT_MANY, tmp_path, 1) as first, start("-c", COMMIT_MANY, tmp_path, 2) as second:
        for id in (f"id{number}" for number in range(10)):
            for process in (first, second):
                process.stdin.write(f"{id}\n")
                process.stdin.flush()
            answers = [first.stdout.readline(), second.stdout.readline()]
            assert sorted(answers) == ["False\n", "True\n"]
            winners[id] = 1 + answers.index("True\n")
    store.verify()
    points = store.read_table("points").to_pandas()
    for id, attempt in winners.items():
        assert store.commit_record(id)["attempts"][id] == attempt
        of_id = points[points["path_id"] == id]
        assert set(of_id["attempt"]) == {attempt}
        assert list(of_id["step"]) == list(range(50 * attempt))


FULL_DISK = """
import resource, sys
import numpy as np
from fipray.errors import RecordsError
from fipray.records import Store
from tests.records.rows import path_row, point_rows
from tests.records.writer import MANIFEST, do_without_pandas

def refused(work):
    try:
        work()
    except RecordsError as error:
        sys.stdout.write(f"{error}\\n")
    else:
        raise SystemExit("it was written")

do_without_pandas()
store = Store.create_or_open(sys.argv[1], MANIFEST)
attempt = store.next_attempt("id0")
points = point_rows("id0", attempt=attempt, num_points=1000)
commit = lambda: store.commit("id0", "path", attempt, {"paths": [path_row("id0", attempt=attempt)], "points": points})
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, unlimited[1]))
refused(lambda: store.write_weights("id0", attempt, "end", {"weights": np.zeros(10_000)}))
refused(commit)
assert not store.is_committed("id0")
left = [file for file in store.directory.rglob("*") if file.is_file()]
assert {file.name for file in left} == {"study.json", ".lock"}, left
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
assert commit()
"""


def test_full_disk_leaves_nothing_half_written_and_is_reported_with_a_remedy(tmp_path):
    # A limit on file sizes stands in for a full disk: both fail in the middle of a write.
    with start("-c", FULL_DISK, tmp_path) as process:
        lines = process.stdout.readlines()
    assert process.returncode == 0, lines
    weights, points = lines
    assert str(tmp_path / "weights" / "id0" / "1" / "end.safetensors") in weights
    assert str(tmp_path / "points" / "id0.parquet") in points
    assert all("Nothing was written. Make room" in line for line in lines)
    store = Store.open(tmp_path)
    store.verify()
    assert store.read_table("points").num_rows == 1000
    assert store.manifest["study"] == STUDY
