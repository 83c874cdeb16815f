"""One truth about tables: what fits is kept exactly, with the whole schema; what does not fit is refused by name."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from fipray.errors import UsageError
from fipray.records import SCHEMA_VERSION, TABLES, Store, to_arrow
from tests.records.rows import (
    distance_row,
    measured_row,
    measures_row,
    path_row,
    point_rows,
    robustness_row,
    round_row,
    task_row,
    transfer_row,
    trial_row,
    variant_row,
    verdicts_row,
)
from tests.records.writer import MANIFEST

ROWS = {
    "paths": [path_row("id", seed=2**63 - 1, spec_json='{"x": "∂θ"}', outcome="", objective_value=-math.inf)],
    "points": point_rows("id", objective_value=5e-324, gain=0.1 + 0.2, clean_accuracy=None),
    "robustness": [robustness_row("id", "all", "ensemble", attack, sparsity=None) for attack in ("fgsm", "worst")],
    "verdicts": [verdicts_row("id", "base", attack) for attack in ("fgsm", "pgd-20x1")],
    "measures": [measures_row("id", "base", "base"), measures_row("id", "all", "ensemble", coherence=0.1, kappa=0.3)],
    "transfer": [transfer_row("id", maker, "base", 1 / 3) for maker in ("base", "sparse")],
    "rounds": [round_row("id", number=2, outcome="")],
    "tasks": [task_row("id"), task_row("id", task="second", task_number=2, learned=False)],
    "variants": [variant_row("id"), variant_row("id", network="sparse", asked_sparsity=0.9, bytes_2_4=40)],
    "point_measures": [measured_row("id"), measured_row("id", measure="drift", value=5e-324)],
    "point_distances": [distance_row("id"), distance_row("id", kept="outputs")],
    "trials": [trial_row("id", config_json='{"stepper.damping":1e-05}')],
}


@pytest.mark.parametrize("name", TABLES)
def test_a_row_comes_back_from_a_directory_as_it_was(name, tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    assert store.commit("id", "kind", 1, {name: ROWS[name]})
    table = store.read_table(name)
    assert table.to_pylist() == [{"schema_version": SCHEMA_VERSION, **row} for row in ROWS[name]]
    assert table.schema.equals(TABLES[name].schema, check_metadata=True)


@pytest.mark.parametrize("name", TABLES)
def test_every_file_carries_the_whole_schema_and_is_read_plainly_by_pandas(name, tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    store.commit("id", "kind", 1, {name: ROWS[name]})
    schema = pyarrow.parquet.read_schema(tmp_path / name / "id.parquet")
    assert schema.equals(TABLES[name].schema, check_metadata=True)
    assert schema.metadata == {b"table": name.encode(), b"schema_version": str(SCHEMA_VERSION).encode()}
    assert list(pd.read_parquet(tmp_path / name)) == [column.name for column in TABLES[name].columns]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_rows_has_its_whole_schema(name, tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    assert store.read_table(name).schema.equals(TABLES[name].schema, check_metadata=True)
    store.commit("id", "kind", 1, {name: []})
    assert store.read_table(name).num_rows == 0
    assert store.read_table(name).schema.equals(TABLES[name].schema, check_metadata=True)


@pytest.mark.parametrize("name", TABLES)
def test_a_missing_column_and_an_unknown_one_are_named_and_the_valid_ones_listed(name):
    row = {("lost" if column == "attempt" else column): value for column, value in ROWS[name][0].items()}
    with pytest.raises(UsageError, match="lacks attempt and has the unknown lost; its columns are schema_version, "):
        to_arrow(name, [row])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("step", 1.0),
        ("step", 1.5),
        ("step", "1"),
        ("step", True),
        ("step", np.bool_(True)),
        ("step", None),
        ("sparsity", "0.5"),
        ("sparsity", False),
        ("sparsity", None),
        ("sparsity", np.zeros(1)),
        ("name", 3),
        ("name", b"sparse"),
        ("name", None),
        ("weights_file", 0),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_its_row_and_column(column, value):
    rows = point_rows("id")
    rows[1][column] = value
    with pytest.raises(UsageError, match=f"row 1 for table 'points': {column} is .*, must be "):
        to_arrow("points", rows)


@pytest.mark.parametrize("value", ["10", [True, None], [1, 0], [[True]]])
def test_a_list_of_anything_but_booleans_is_refused(value):
    with pytest.raises(UsageError, match="robust"):
        to_arrow("verdicts", [verdicts_row("id", "base", "fgsm", robust=value)])


@pytest.mark.parametrize("value", [1, 0, "true", None, np.bool_(True)])
def test_a_boolean_is_nothing_else(value):
    with pytest.raises(UsageError, match=r"row 0 for table 'tasks': learned is .*, must be bool"):
        to_arrow("tasks", [task_row("id", learned=value)])


@pytest.mark.parametrize(("column", "value"), [("step", 2**63), ("name", "\ud800")])
def test_a_value_that_arrow_cannot_hold_is_refused_with_its_column(column, value):
    with pytest.raises(UsageError, match=f"{column} for table 'points' does not fit"):
        to_arrow("points", point_rows("id", num_points=1, **{column: value}))


def test_every_column_takes_none_if_and_only_if_it_is_optional():
    for name, table in TABLES.items():
        for column in table.columns[1:]:
            row = [{**ROWS[name][0], column.name: None}]
            if column.optional:
                assert to_arrow(name, row)[column.name].null_count == 1
            else:
                with pytest.raises(UsageError, match=f"{column.name} is None"):
                    to_arrow(name, row)


def test_numbers_of_numpy_are_numbers():
    row = point_rows("id", num_points=1, step=np.int32(4), sparsity=np.float32(0.5), gain=3)[0]
    kept = to_arrow("points", [row]).to_pylist()[0]
    assert (kept["step"], kept["sparsity"], kept["gain"]) == (4, 0.5, 3.0)


def test_nan_is_a_number_and_not_a_missing_one():
    kept = to_arrow("points", point_rows("id", num_points=1, clean_accuracy=math.nan))["clean_accuracy"]
    assert kept.null_count == 0
    assert math.isnan(kept[0].as_py())


@pytest.mark.parametrize("name", TABLES)
def test_two_rows_of_one_key_are_refused(name):
    with pytest.raises(UsageError, match=r"2 rows for table .* have only 1 different \("):
        to_arrow(name, [ROWS[name][0], {**ROWS[name][0], "study": "another"}])


def test_an_unknown_table_lists_the_tables_there_are(tmp_path):
    with pytest.raises(UsageError, match=f"tables are {', '.join(TABLES)}"):
        to_arrow("point", [])
    with pytest.raises(UsageError, match="no table 'point'"):
        Store.create_or_open(tmp_path, MANIFEST).read_table("point")


def test_every_column_has_a_meaning_and_one_meaning_of_type_in_all_tables():
    types: dict[str, pa.DataType] = {}
    for table in TABLES.values():
        assert set(table.key) <= {column.name for column in table.columns}
        for column in table.columns:
            assert column.meaning
            assert bool(column.unit) == (column.type != pa.string())
            assert types.setdefault(column.name, column.type) == column.type
