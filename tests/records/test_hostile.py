"""Results directories of unknown origin: damage is reported by file name, and nothing outside is touched."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.faults.hostile import HARMLESS, HOSTILE, SECRET, make_outside
from fipray import analysis
from fipray.errors import FiprayError, RecordsError
from fipray.records import Store, compact
from tests.records.writer import MANIFEST, write_study

ROOT = Path(__file__).parents[2]
STUDY = {**MANIFEST, "parameters_of_module": [[["weights"], [3]]]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "results"
    Store.create_or_open(directory, STUDY)
    write_study(directory, 2)
    return directory


def state_of(outside):
    return {
        file: (file.lstat().st_mode, file.lstat().st_ino, hashlib.sha256(file.read_bytes()).digest())
        for file in sorted(outside.rglob("*"))
        if file.is_file()
    } | {outside: tuple(sorted(os.listdir(outside)))}


def read(directory):
    """Everything that is shown of a directory."""
    results = analysis.load(directory)
    shown = io.StringIO()
    analysis.print_summary(results, shown)
    weights = [results.weights(name) for name in results.paths["path_id"]]
    return f"{shown.getvalue()}{results!r}{weights}"


def write(directory):
    store = Store.create_or_open(directory, STUDY)
    store.beside(".tune")
    compact(store)
    write_study(directory, 3)
    return ""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_directory_is_reported_and_nothing_outside_is_touched(whole, tmp_path, name):
    directory, outside = tmp_path / "results", tmp_path / "outside"
    shutil.copytree(whole, directory)
    make_outside(outside)
    HOSTILE[name](directory, outside)
    before, said = state_of(outside), []
    for work in (lambda place: Store.open(place).verify(), read, write, read):
        try:
            said.append(str(work(directory)))
        except FiprayError as error:
            said.append(str(error))
    assert not any(secret in text for text in said for secret in (SECRET, "\x1b", "\u202e"))
    assert state_of(outside) == before
    assert {file.name for file in tmp_path.iterdir()} == {"results", "outside"}
    if name not in HARMLESS:
        assert str(directory) in said[0], "verify names the file"


def test_results_directory_may_be_a_link(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "results")
    (tmp_path / "link").symlink_to("results")
    assert "2 paths" in read(tmp_path / "link")
    Store.open(tmp_path / "link").verify()
    write(tmp_path / "link")
    assert "3 paths" in read(tmp_path / "results")


WITHOUT_POSIX = """
import asyncio, os, sys  # asyncio itself asks for sysconf on POSIX systems
for name in ("fcntl", "pwd", "grp", "resource"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "sysconf"):
    delattr(os, name)
os.supports_dir_fd, os.supports_fd = set(), set()
from fipray import analysis, records
results = analysis.load(sys.argv[1])
assert list(results.weights("path-1")) == [1, 2, 3]
records.Store.open(sys.argv[1]).verify()
try:
    records.Store.open(sys.argv[2]).verify()
except records.store.RecordsError as error:
    print(error)
assert "portalocker" not in sys.modules
"""


def test_results_are_read_without_posix_features(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "linked")
    HOSTILE["a table is a link in the directory"](tmp_path / "linked", tmp_path)
    command = [sys.executable, "-c", WITHOUT_POSIX, whole, tmp_path / "linked"]
    answer = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)
    assert answer.stderr == ""
    assert "points is a symbolic link, which is not followed" in answer.stdout


def test_compaction_removes_commits_that_an_interrupted_one_left(tmp_path):
    write_study(tmp_path, 2)
    old = tmp_path / "commits" / "id0.json"
    content = old.read_bytes()
    store = Store.open(tmp_path)
    compact(store)
    write_study(tmp_path, 3)
    old.write_bytes(content)  # as if it had not been removed yet
    first, second = Store.open(tmp_path), Store.open(tmp_path)
    assert first.committed() == {"id0", "id1", "id2"}
    compact(second)
    assert sorted(file.name[:9] for file in (tmp_path / "commits").iterdir()) == ["compacted"]
    assert first.read_table("points").equals(second.read_table("points"))


def test_base_weights_without_digest_are_damaged(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "results")
    (tmp_path / "results" / "base.sha256").unlink()
    for work in (Store.read_base, Store.verify):
        with pytest.raises(RecordsError, match=r"base\.sha256 is missing"):
            work(Store.open(tmp_path / "results"))


def test_name_with_markup_is_printed_literally(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "results")
    HOSTILE["names that are markup"](tmp_path / "results", tmp_path)
    shown = io.StringIO()
    results = analysis.load(tmp_path / "results")
    Console(file=shown, width=120).print(analysis.render(results))
    assert "[/red]x[bold" in shown.getvalue()
    np.testing.assert_array_equal(results.weights("[/red]x[bold"), np.arange(3) + 1)
