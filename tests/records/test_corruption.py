"""Detection of truncated, empty, missing and altered files, and the remedies in the errors."""

import itertools
import re

import numpy as np
import pytest

from fipray.errors import CorruptFileError, RecordsError
from fipray.records import Store
from tests.records.writer import MANIFEST, write_study

TABLE, COMMIT, WEIGHTS = "points/id0.parquet", "commits/id0.json", "weights/id0/1/end.safetensors"
DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-2]),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
    "altered": lambda file: file.write_bytes(flipped(file.read_bytes(), len(file.read_bytes()) // 2)),
    "not text": lambda file: file.write_bytes(b"\xff\xfe\xfd"),
}


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.fixture
def store(tmp_path):
    write_study(tmp_path / "results", 2)
    return Store.open(tmp_path / "results")


def read_weights(store):
    row = store.read_table("paths").to_pylist()[0]
    return store.read_weights(row["weights_file"], row["weights_sha256"])


READINGS = {
    TABLE: lambda store: store.read_table("points"),
    WEIGHTS: read_weights,
    COMMIT: lambda store: store.read_table("points"),
    "base.safetensors": lambda store: store.read_base(),
}


@pytest.mark.parametrize(
    ("file", "damage"),
    # An ID without a commit record is not committed yet, which is no damage.
    [pair for pair in itertools.product(READINGS, DAMAGES) if pair != (COMMIT, "missing")],
)
def test_damage_is_reported_with_a_remedy_by_reading_and_verifying(store, file, damage):
    DAMAGES[damage](store.directory / file)
    remedy = "into a new directory" if file == "base.safetensors" else f"Delete {COMMIT} and run the same command again"
    for work in (READINGS[file], Store.verify):
        with pytest.raises(CorruptFileError, match=re.escape(str(store.directory / file))) as error:
            work(store)
        assert remedy in str(error.value)


@pytest.mark.parametrize("file", [TABLE, WEIGHTS, COMMIT])
def test_remedy_in_the_error_repairs_the_directory(store, file):
    (store.directory / file).write_bytes(b"")
    (store.directory / COMMIT).unlink()
    write_study(store.directory, 2)
    store.verify()
    assert store.commit_record("id0")["attempts"]["id0"] == 2
    assert store.read_table("points").num_rows == 8
    read_weights(store)


def test_id_without_commit_record_is_not_committed(store):
    (store.directory / COMMIT).unlink()
    assert store.committed() == {"id1"}
    assert set(store.read_table("points")["path_id"].to_pylist()) == {"id1"}
    store.verify()


@pytest.mark.parametrize("file", ["study.json", COMMIT])
def test_one_flipped_bit_in_a_manifest_or_commit_record_is_detected(store, file):
    content = (store.directory / file).read_bytes()
    for position in range(len(content) - 1):
        (store.directory / file).write_bytes(flipped(content, position))
        with pytest.raises(CorruptFileError, match=re.escape(file)):
            Store.open(store.directory).commit_record("id0")
    (store.directory / file).write_bytes(content)
    Store.open(store.directory).verify()


def test_commit_record_under_another_name_is_detected(store):
    (store.directory / "commits" / "id9.json").write_bytes((store.directory / COMMIT).read_bytes())
    with pytest.raises(CorruptFileError, match=r"id9\.json is the record of 'id0'"):
        store.read_table("points")


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "missing"])
def test_damaged_manifest_is_reported_with_a_remedy(store, damage):
    DAMAGES[damage](store.directory / "study.json")
    for work in (lambda: Store.open(store.directory), lambda: Store.create_or_open(store.directory, MANIFEST)):
        with pytest.raises(CorruptFileError, match=r"study\.json is truncated or altered.*into a new directory"):
            work()


def test_results_without_manifest_are_refused_and_unchanged(store):
    (store.directory / "study.json").unlink()
    with pytest.raises(RecordsError, match=r"not a results directory: there is no study\.json"):
        Store.open(store.directory)
    with pytest.raises(RecordsError, match=r"holds base\.safetensors, .* but no study\.json"):
        Store.create_or_open(store.directory, MANIFEST)
    assert (store.directory / TABLE).exists()


def test_verify_reports_all_damaged_files_at_once(store):
    np.random.default_rng(0).shuffle(files := [TABLE, WEIGHTS, "paths/id1.parquet", "base.safetensors"])
    for file in files:
        DAMAGES["altered"](store.directory / file)
    with pytest.raises(CorruptFileError) as error:
        store.verify()
    assert len(str(error.value).splitlines()) == len(files)
    assert all(file in str(error.value) for file in files)


def test_damaged_digest_of_the_base_weights_is_detected(store):
    for content in (b"", b"\xff\xfe", b"0" * 64):
        (store.directory / "base.sha256").write_bytes(content)
        with pytest.raises(CorruptFileError, match=r"base\.s.*Run the study again, into a new directory"):
            store.read_base()
        with pytest.raises(CorruptFileError, match=r"base\.s.*Run the study again, into a new directory"):
            store.verify()
