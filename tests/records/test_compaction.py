"""Compaction of commits, also with concurrent readers and writers and after crashes."""

import threading

import pandas as pd
import pytest

from fipray.errors import CorruptFileError
from fipray.records import Attempt, Store, compact
from tests.records.rows import path_row, point_rows
from tests.records.writer import MANIFEST, write_study

IDS = [f"id{number:02d}" for number in range(12)]


def rows_of(id, attempt=1):
    return {"paths": [path_row(id, attempt=attempt)], "points": point_rows(id, attempt=attempt)}


@pytest.fixture
def store(tmp_path):
    store = Store.create_or_open(tmp_path / "results", MANIFEST)
    for id in IDS[:9]:
        store.commit(id, "path", 3, rows_of(id, 3))
    store.commit_all([Attempt(id, "path", 1, rows_of(id)) for id in IDS[9:]])
    return store


def names(store, table):
    return sorted(file.name for file in (store.directory / table).iterdir())


def test_compaction_changes_no_row(store):
    before, other = store.read_tables(), Store.open(store.directory)
    assert other.committed() == set(IDS)
    assert compact(store) == (10, 1)
    for reader in (store, other, Store.open(store.directory)):
        after = reader.read_tables()
        assert {name: rows.equals(before[name]) for name, rows in after.items()} == dict.fromkeys(before, True)
        assert {id: reader.commit_record(id)["attempts"][id] for id in IDS} == {
            id: 3 if id in IDS[:9] else 1 for id in IDS
        }
    assert len(names(store, "points")) == len(names(store, "paths")) == len(names(store, "commits")) == 1
    assert len(pd.read_parquet(store.directory / "points")) == 36
    store.verify()


def test_compaction_respects_the_limit_of_rows(store):
    assert compact(store, max_rows=20) == (10, 3)
    assert sorted(len(pd.read_parquet(file)) for file in (store.directory / "points").iterdir()) == [9, 12, 15]
    assert compact(store, max_rows=20) == (3, 3)
    assert compact(store) == (3, 1)
    assert store.committed() == set(IDS)


def test_compacted_study_can_be_continued(store):
    compact(store)
    assert not store.commit(IDS[0], "path", 9, rows_of(IDS[0], 9))
    write_study(store.directory, 2)
    assert compact(store) == (3, 1)
    assert store.committed() == {*IDS, "id0", "id1"}


@pytest.mark.parametrize("num_removed", [0, 3, 10])
def test_compaction_killed_before_removing_old_commits_leaves_each_row_once(store, num_removed):
    old = {
        file: file.read_bytes()
        for table in ("commits", "points", "paths")
        for file in (store.directory / table).iterdir()
    }
    before = store.read_table("points")
    compact(store)
    for file, content in list(old.items())[num_removed:]:
        file.write_bytes(content)  # as if it had not been removed yet
    for reader in (store, Store.open(store.directory)):
        assert reader.read_table("points").equals(before)
    assert Store.create_or_open(store.directory, MANIFEST).read_table("points").equals(before)
    assert len(names(store, "points")) == len(names(store, "commits")) == 1


def test_readers_see_each_row_once_during_compaction(store):
    before, over, seen = store.read_table("points"), threading.Event(), []

    def read():
        reader = Store.open(store.directory)
        while not over.is_set():
            seen.append(reader.read_table("points").equals(before))

    thread = threading.Thread(target=read)
    thread.start()
    for max_rows in (4, 8, 16, 32, 64, 128):
        compact(store, max_rows)
    over.set()
    thread.join()
    assert seen
    assert all(seen)


def test_compaction_stops_at_damage_and_loses_nothing(store):
    (store.directory / "points" / f"{IDS[4]}.parquet").write_bytes(b"")
    with pytest.raises(CorruptFileError, match=rf"{IDS[4]}\.parquet is truncated.*Delete commits/{IDS[4]}\.json"):
        compact(store)
    assert len(names(store, "commits")) == 10
    (store.directory / "commits" / f"{IDS[4]}.json").unlink()
    assert compact(store) == (9, 1)
    assert store.committed() == {*IDS} - {IDS[4]}


def test_concurrent_compactions_leave_each_row_once(store):
    before = store.read_table("points")
    threads = [threading.Thread(target=compact, args=(Store.open(store.directory), size)) for size in (8, 16, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Store.open(store.directory).read_table("points").equals(before)
    store.verify()
