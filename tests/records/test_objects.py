"""Results directories in an object store."""

import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import fs

from fipray import analysis
from fipray.errors import CorruptFileError, RecordsError, UsageError
from fipray.records import Store, compact, objects
from tests.records.rows import path_row, point_rows
from tests.records.test_crash import check_every_step_once
from tests.records.writer import MANIFEST, write_study

ROOT = Path(__file__).parents[2]


def rows_of(id, attempt=1, **changes):
    return {"paths": [path_row(id, attempt=attempt) | changes], "points": point_rows(id, attempt=attempt)}


def objects_of(store):
    infos = store.files.store.get_file_info(fs.FileSelector(store.files.root, recursive=True))
    return sorted(info.path.removeprefix(f"{store.files.root}/") for info in infos if info.is_file)


def test_study_is_written_continued_compacted_and_read_by_pandas(bucket):
    write_study(bucket, 2)
    write_study(bucket, 3)
    store = Store.open(bucket)
    assert store.committed() == {"id0", "id1", "id2"}
    check_every_step_once(store)
    assert {store.commit_record(id)["attempts"][id] for id in store.committed()} == {1}
    store.verify()
    assert compact(store) == (3, 1)
    results = analysis.load(bucket)
    assert list(results.paths["path_id"]) == ["id0", "id1", "id2"]
    assert len(results.points) == 12
    np.testing.assert_array_equal(results.weights("id1"), np.arange(3) + 1)
    plain = pd.read_parquet(f"{store.files.root}/points", filesystem=store.files.store)
    assert len(plain) == 12
    assert bucket in repr(results)


def test_second_commit_of_an_id_returns_false_and_changes_nothing(bucket):
    store = Store.create_or_open(bucket, MANIFEST)
    assert store.commit("id", "path", 1, rows_of("id"))
    before = objects_of(store)
    assert not Store.open(bucket).commit("id", "path", 2, rows_of("id", 2))
    assert objects_of(store) == before
    assert store.commit_record("id")["attempts"] == {"id": 1}


def test_attempt_numbers_and_the_lock_are_exclusive(bucket):
    Store.create_or_open(bucket, MANIFEST)
    attempts, counted = [], [0]

    def take():
        store = Store.open(bucket)
        attempts.append(store.next_attempt("id"))
        for _ in range(3):
            with store.files.locked():
                before = counted[0]
                store.files.exists("study.json")  # a round trip during which others could enter
                counted[0] = before + 1

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(attempts)) == 4
    assert counted == [12]


def test_lock_of_a_dead_process_is_broken_and_of_a_living_one_awaited(bucket, monkeypatch):
    store = Store.create_or_open(bucket, MANIFEST)
    store.files.write(".locks/0000000000000000", b"")
    monkeypatch.setattr(objects, "_PATIENCE_SECONDS", 0.0)
    with pytest.raises(RecordsError, match=r"other processes have held s3://.*/\.locks"), store.files.locked():
        pass
    monkeypatch.setattr(objects, "_STALE_SECONDS", -1.0)
    with store.files.locked():
        assert len(store.files.names(".locks")) == 1
    assert store.files.names(".locks") == []


def test_lock_that_is_held_for_long_is_renewed(bucket, monkeypatch):
    store = Store.create_or_open(bucket, MANIFEST)
    monkeypatch.setattr(objects, "_STALE_SECONDS", 0.5)
    with store.files.locked():
        first = times = [info.mtime for info in store.files._infos(".locks")]
        deadline = time.monotonic() + 30
        while times == first:  # the store reports whole seconds
            assert time.monotonic() < deadline
            times = [info.mtime for info in store.files._infos(".locks")]
        assert len(times) == 1
    assert store.files.names(".locks") == []


def test_killed_writer_leaves_nothing_half_visible(bucket):
    program = (
        "import sys; from tests.records.writer import write_study\n"
        "write_study(sys.argv[1], 40, lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, bucket]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
        said = [writer.stdout.readline() for _ in range(9)]
        writer.send_signal(signal.SIGKILL)
    store = Store.open(bucket)
    assert {line.split()[0] for line in said if line.endswith("committed\n")} <= store.committed()
    store.verify()
    check_every_step_once(store)
    store.files.remove_leftovers()
    write_study(bucket, 5)
    store.verify()
    check_every_step_once(store)
    assert store.committed() >= {f"id{number}" for number in range(5)}
    plain = pd.read_parquet(f"{store.files.root}/points", filesystem=store.files.store)
    assert not plain.duplicated(["path_id", "step"]).any()


def test_damage_is_reported_with_its_address_and_a_remedy(bucket):
    write_study(bucket, 1)
    store = Store.open(bucket)
    store.files.write("points/id0.parquet", b"short")
    store.files.remove("weights/id0/1/end.safetensors")
    with pytest.raises(
        CorruptFileError, match=r"s3://bucket/.*/results/points/id0\.parquet is truncated.*Delete commits/id0"
    ):
        store.read_table("points")
    with pytest.raises(CorruptFileError):
        store.verify(weights=False)
    store.files.remove("commits/id0.json")
    write_study(bucket, 1)
    store.verify()
    assert store.commit_record("id0")["attempts"]["id0"] == 2


def test_missing_directory_or_bucket_is_reported(bucket, object_store):
    with pytest.raises(RecordsError, match=r"not a results directory: there is no study\.json in s3://"):
        Store.open(bucket)
    with pytest.raises(RecordsError, match="there is no bucket 'nowhere'"):
        Store.create_or_open(f"s3://nowhere/results?endpoint_override={object_store}&scheme=http", MANIFEST)
    store = Store.create_or_open(bucket, MANIFEST)
    with pytest.raises(UsageError, match="in an object store, not in a directory"):
        _ = store.directory
    with pytest.raises(UsageError, match="holds study"):
        Store.create_or_open(bucket, {**MANIFEST, "study_id": "another"})


def test_address_survives_pickling_and_pathlib(bucket):
    write_study(bucket, 1)
    store = Store.open(Path(bucket))
    assert store.address == bucket
    assert pickle.loads(pickle.dumps(store.files)).names("commits") == ["id0.json"]


def test_credentials_in_an_address_open_it_everywhere_and_are_never_shown(bucket):
    address = bucket.replace("s3://", "s3://KEY:SECRET@")
    write_study(address, 1)
    store = Store.open(address)
    assert store.address == bucket
    assert store.location == pickle.loads(pickle.dumps(store.files)).location == address
    results = analysis.load(store.location)
    assert len(results.weights("id0")) == 3
    shown = [repr(store), repr(store.files), repr(results), store.files.named("points"), str(results.address)]
    for wrong in (
        address.replace("bucket/", "nowhere/"),
        address.replace("s3:", "s4:"),
        f"{address}&secret_key=SECRET",
    ):
        with pytest.raises((RecordsError, UsageError)) as error:
            Store.create_or_open(wrong, MANIFEST)
        shown += traceback.format_exception(error.value)
    assert not any("SECRET" in text for text in shown)
    assert b"SECRET" not in b"".join(store.files.read(file) for file in ("study.json", "commits/id0.json"))
