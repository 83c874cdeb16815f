"""Results directories: atomic commits, attempts, weights, and names that cannot leave the directory."""

import numpy as np
import pandas as pd
import pytest

from fipray.errors import RecordsError, UsageError
from fipray.records import Attempt, Store, locks
from tests.records.rows import path_row, point_rows
from tests.records.writer import MANIFEST, write_study

NAMES_THAT_ARE_NONE = [
    "",
    ".",
    "..",
    "../up",
    "a/b",
    "/root",
    ".hidden",
    "-option",
    "a\n",
    "a\0b",
    "a b",
    "ä",
    "x" * 65,
]


@pytest.fixture
def store(tmp_path):
    return Store.create_or_open(tmp_path / "results", MANIFEST)


def files_of(store):
    return {file: file.read_bytes() for file in store.directory.rglob("*") if file.is_file()}


def rows_of(id, attempt=1, **changes):
    return {
        "paths": [path_row(id, attempt=attempt) | changes],
        "points": point_rows(id, attempt=attempt),
    }


def test_uncommitted_attempt_is_never_read(store):
    attempt = store.next_attempt("id")
    store.write_weights("id", attempt, "end", {"weights": np.ones(3)})
    assert not store.is_committed("id")
    assert store.committed() == set()
    assert store.read_table("points").num_rows == 0
    with pytest.raises(UsageError, match="'id' is not committed"):
        store.commit_record("id")
    store.verify()


def test_second_commit_of_an_id_returns_false_and_changes_nothing(store):
    assert store.commit("id", "path", 1, rows_of("id"))
    before = files_of(store)
    assert not store.commit("id", "path", 2, rows_of("id", 2, sparsity=1.0))
    assert files_of(store) == before
    assert store.commit_record("id")["attempts"]["id"] == 1


def test_commit_record_names_the_attempt_and_all_table_files(store):
    file, sha256 = store.write_weights("id", 2, "end", {"weights": np.ones(3)})
    store.commit("id", "PathSpec", 2, rows_of("id", 2, weights_file=file, weights_sha256=sha256))
    record = store.commit_record("id")
    assert (record["name"], record["kinds"], record["attempts"]) == ("id", {"id": "PathSpec"}, {"id": 2})
    assert set(record["files"]) == {"paths/id.parquet", "points/id.parquet"}
    assert store.read_table("paths")["weights_sha256"].to_pylist() == [sha256]


def test_attempts_committed_together_share_files(store):
    ids = ["c", "a", "d"]
    store.commit("b", "path", 1, rows_of("b"))
    attempts = [Attempt(id, "path", 2, rows_of(id, 2)) for id in ids]
    assert store.commit_all([*attempts, Attempt("b", "path", 2, rows_of("b", 2))]) == set(ids)
    assert store.committed() == {"a", "b", "c", "d"}
    assert [store.commit_record(id)["attempts"][id] for id in "abcd"] == [2, 1, 2, 2]
    assert sorted(file.name for file in (store.directory / "points").iterdir()) == ["a.parquet", "b.parquet"]
    points = store.read_table("points").to_pydict()
    assert points["path_id"] == [id for id in "abcd" for _ in range(3)]
    assert points["step"] == 4 * [0, 1, 2]
    assert store.next_attempt("d") == 3
    store.verify()


def test_commit_of_two_attempts_at_one_id_is_refused(store):
    with pytest.raises(UsageError, match="only one can be committed"):
        store.commit_all([Attempt("id", "path", number, rows_of("id", number)) for number in (1, 2)])
    assert store.commit_all([]) == store.committed() == set()


def test_rows_are_sorted_by_id_and_read_by_pandas(store):
    for id in ("b", "c", "a"):
        store.commit(id, "path", 1, rows_of(id))
    points = store.read_table("points").to_pandas()
    assert list(points["path_id"]) == [id for id in "abc" for _ in range(3)]
    pd.testing.assert_frame_equal(pd.read_parquet(store.directory / "points"), points)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"path_id": "other"}, "have path_id .*other.*, but 'id' is being committed"),
        ({"attempt": 2}, "have attempt .*2.*, but attempt 1 is being committed"),
        ({"attempt": 0}, "have attempt .*0.*, but attempt 1 is being committed"),
        ({"weights_file": "base.safetensors"}, "weights_file and weights_sha256 go together"),
        ({"weights_file": "weights/other/1/end.safetensors", "weights_sha256": "0"}, "no attempt at it up to 1 can"),
        ({"weights_file": "weights/id/2/end.safetensors", "weights_sha256": "0"}, "no attempt at it up to 1 can"),
        ({"weights_file": "../secret.safetensors", "weights_sha256": "0"}, "no attempt at it up to 1 can"),
        ({"sparsity": None}, "sparsity is None"),
    ],
)
def test_commit_of_rows_of_another_attempt_is_refused_and_writes_nothing(store, changes, complaint):
    before = files_of(store)
    with pytest.raises(UsageError, match=complaint):
        store.commit("id", "path", 1, rows_of("id", **changes))
    assert files_of(store) == before


def test_commit_with_missing_weights_is_refused(store):
    named = {"weights_file": "weights/id/1/end.safetensors", "weights_sha256": "0"}
    with pytest.raises(RecordsError, match=r"end\.safetensors.* cannot be seen from here.* every worker shares"):
        store.commit("id", "path", 1, rows_of("id", **named))
    assert store.committed() == set()


def test_weights_are_read_exactly_for_any_dtype_and_memory_layout(store):
    random = np.random.default_rng(0)
    arrays = {
        "weights": random.normal(size=7).astype(np.float32),
        "transposed": random.normal(size=(3, 4)).T,
        "strided": random.normal(size=10)[::-3],
        "count": np.array(3),
        "empty": np.zeros((0, 2), np.float16),
    }
    back = store.read_weights(*store.write_weights("id", 1, "end", arrays))
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, strict=True)


def test_weights_that_are_not_numbers_are_refused(store):
    with pytest.raises(UsageError, match="arrays words cannot be written"):
        store.write_weights("id", 1, "end", {"words": np.array(["a"], dtype=object)})


def test_base_weights_are_written_once(store):
    with pytest.raises(RecordsError, match=r"no base weights in .* yet"):
        store.read_base()
    first = store.write_base({"weights": np.ones(3)})
    assert store.write_base({"weights": np.zeros(3)}) == first
    np.testing.assert_array_equal(store.read_base()["weights"], np.ones(3))
    np.testing.assert_array_equal(store.read_weights(*first)["weights"], np.ones(3))


def test_attempt_numbers_start_at_one_and_are_unique(store):
    assert [store.next_attempt("id") for _ in range(3)] == [1, 2, 3]
    assert store.next_attempt("other") == 1
    store.commit("committed", "path", 7, rows_of("committed", 7))
    assert store.next_attempt("committed") == 8


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempt_number_below_one_is_refused(store, attempt):
    with pytest.raises(UsageError, match="attempts are numbered from 1"):
        store.write_weights("id", attempt, "end", {"weights": np.ones(3)})
    with pytest.raises(UsageError, match="attempts are numbered from 1"):
        store.commit("id", "path", attempt, {})


@pytest.mark.parametrize("name", NAMES_THAT_ARE_NONE)
def test_invalid_names_are_refused_and_write_nothing(store, name, tmp_path):
    before = files_of(store)
    weights = {"weights": np.ones(3)}
    for work in (
        lambda: store.commit(name, "path", 1, rows_of(name)),
        lambda: store.commit("id", name, 1, rows_of("id")),
        lambda: store.commit_all([Attempt("id", "path", 1, rows_of("id")), Attempt(name, "path", 1, rows_of(name))]),
        lambda: store.write_weights(name, 1, "end", weights),
        lambda: store.write_weights("id", 1, name, weights),
        lambda: store.next_attempt(name),
        lambda: store.is_committed(name),
        lambda: store.commit_record(name),
        lambda: Store.create_or_open(tmp_path / "other", {**MANIFEST, "study": name}),
    ):
        with pytest.raises(UsageError, match="is not a valid name"):
            work()
    assert files_of(store) == before
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("file", ["../x.safetensors", "/x", "study.json", "weights/id/1/../1/end.safetensors", ""])
def test_weights_outside_the_directory_are_not_read(store, file):
    with pytest.raises(RecordsError, match="is not a weights file"):
        store.read_weights(file, "0")


def test_directory_of_another_study_is_refused_with_the_differences(store):
    other = {"study": "other", "study_id": "f" * 16, "parameters": {"points": 5, "seed": 1}}
    with pytest.raises(UsageError) as refusal:
        Store.create_or_open(store.directory, other)
    for part in ("'made-up'", "'other'", "points is 4 there and 5 here", "seed is 'not set' there and 1 here"):
        assert part in str(refusal.value)
    same = {**MANIFEST, "study_id": "f" * 16}
    with pytest.raises(UsageError, match="the parameters are the same, so the network, the data or the specs differ"):
        Store.create_or_open(store.directory, same)


def test_directory_of_the_same_study_is_opened_again(store):
    assert Store.create_or_open(store.directory, MANIFEST) == store == Store.open(store.directory)
    assert {key: store.manifest[key] for key in MANIFEST} == MANIFEST


def test_directory_with_other_files_is_refused_and_unchanged(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RecordsError, match=r"holds thesis\.tex but no study\.json.*Choose a new or an empty directory"):
        Store.create_or_open(tmp_path, MANIFEST)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_impossible_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RecordsError, match=r"could not use .*file.* Choose another directory"):
            Store.create_or_open(place, MANIFEST)
    for address in ("ftp://host/results", "s3://bucket", "s3:///results"):
        with pytest.raises(UsageError, match=r"is not an address of results: use s3://bucket/directory, gs://"):
            Store.create_or_open(address, MANIFEST)


def test_opening_another_directory_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(RecordsError, match=r"not a results directory: there is no study\.json in "):
            Store.open(place)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("lost", ["study", "study_id", "parameters"])
def test_manifest_with_missing_keys_is_refused(tmp_path, lost):
    with pytest.raises(UsageError, match=f"the manifest lacks {lost}"):
        Store.create_or_open(tmp_path, {key: value for key, value in MANIFEST.items() if key != lost})
    with pytest.raises(UsageError, match="not plain JSON data"):
        Store.create_or_open(tmp_path, {**MANIFEST, "parameters": {"array": np.ones(3)}})
    assert not [*tmp_path.iterdir()]


def test_temporary_files_of_dead_writers_alone_are_removed(store):
    dead, living = (store.directory / f".fipray-{digit * 16}-x.parquet" for digit in "ab")
    stranger = store.directory / ".nfs0001"
    for file in (dead, living, stranger):
        file.write_bytes(b"half")
    with living.open("rb+") as stream:
        assert locks.lock_now(stream)
        Store.create_or_open(store.directory, MANIFEST)
        assert [dead.exists(), living.exists(), stranger.exists()] == [False, True, True]
    Store.create_or_open(store.directory, MANIFEST)
    assert [living.exists(), stranger.exists()] == [False, True]


def test_timeout_of_the_lock_names_it(store, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.0)
    waiting = store.files.locked()
    with store.files.locked(), pytest.raises(RecordsError, match=r"another process has held .*\.lock"), waiting:
        pass
    with store.files.locked():
        pass


def test_study_is_read_while_it_is_written(store):
    reader = Store.open(store.directory)
    write_study(store.directory, 1)
    first = reader.read_table("points")
    write_study(store.directory, 2)
    assert reader.committed() == {"id0", "id1"}
    assert reader.read_table("points").slice(0, first.num_rows).equals(first)
