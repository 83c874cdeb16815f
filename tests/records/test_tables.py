"""Tables: rows that fit come back exactly, with the full schema; rows that do not fit are refused by name."""

import math
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from fipray.analysis import load
from fipray.errors import CorruptFileError, UsageError
from fipray.records import SCHEMA_VERSION, TABLES, Store, compact, to_arrow
from fipray.records.encoding import json_bytes, read_json, sha256_of
from fipray.records.parquet import parquet_bytes
from fipray.records.tables import BOOLEANS, FLOAT, INT64, TEXT, Column, Field, Table, as_mapping
from fipray.records.tables.columns import row
from tests.records.rows import (
    distance_row,
    measured_row,
    measures_row,
    path_row,
    per_example_row,
    point_rows,
    robustness_row,
    round_row,
    task_row,
    transfer_row,
    trial_row,
    variant_row,
)
from tests.records.writer import MANIFEST

ROWS = {
    "paths": [path_row("id", seed=2**63 - 1, spec_json='{"x": "∂θ"}', outcome="", objective_value=-1.5e300)],
    "points": point_rows("id", objective_value=5e-324, gain=0.1 + 0.2, clean_accuracy=None),
    "robustness": [robustness_row("id", "all", "ensemble", attack, sparsity=None) for attack in ("fgsm", "worst")],
    "per_example": [per_example_row("id", "base", attack) for attack in ("fgsm", "pgd-20x1")],
    "measures": [measures_row("id", "base", "base"), measures_row("id", "all", "ensemble", coherence=0.1, kappa=0.3)],
    "transfer": [transfer_row("id", source, "base", 1 / 3) for source in ("base", "sparse")],
    "rounds": [round_row("id", number=2, outcome="")],
    "tasks": [task_row("id"), task_row("id", task="second", task_number=2, learned=False)],
    "variants": [variant_row("id"), variant_row("id", network="sparse", target_sparsity=0.9, bytes_2_4=40)],
    "point_measures": [measured_row("id"), measured_row("id", measure="drift", value=5e-324)],
    "point_distances": [distance_row("id"), distance_row("id", kept="outputs")],
    "trials": [trial_row("id", config_json='{"stepper.damping":1e-05}')],
}


@pytest.mark.parametrize("name", TABLES)
def test_rows_are_read_as_written(name, tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    assert store.commit("id", "kind", 1, {name: ROWS[name]})
    table = store.read_table(name)
    assert table.to_pylist() == [{"schema_version": SCHEMA_VERSION, **row} for row in ROWS[name]]
    assert table.schema.equals(TABLES[name].schema, check_metadata=True)


@pytest.mark.parametrize("name", TABLES)
def test_files_carry_the_full_schema_and_are_read_by_pandas(name, tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    store.commit("id", "kind", 1, {name: ROWS[name]})
    schema = pyarrow.parquet.read_schema(tmp_path / name / "id.parquet")
    assert schema.equals(TABLES[name].schema, check_metadata=True)
    assert schema.metadata == {b"table": name.encode(), b"schema_version": str(SCHEMA_VERSION).encode()}
    assert list(pd.read_parquet(tmp_path / name)) == [column.name for column in TABLES[name].columns]


@pytest.mark.parametrize("name", TABLES)
def test_files_carry_descriptions_and_units_of_columns(name, tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    store.commit("id", "kind", 1, {name: ROWS[name]})
    wanted = {
        each.name: {b"description": each.description.encode(), b"unit": each.unit.encode()}
        for each in TABLES[name].columns
    }
    for schema in (pyarrow.parquet.read_schema(tmp_path / name / "id.parquet"), store.read_table(name).schema):
        assert {field.name: field.metadata for field in schema} == wanted


def test_row_class_defines_types_units_and_nullability():
    @row
    class Row:
        """One row per thing."""

        id: Annotated[str, Field("its ID")]
        count: Annotated[int, Field("how many")]
        seconds: Annotated[float | None, Field("how long", unit="s")]
        kept: Annotated[list[bool], Field("which ones", undefined=True)]

    table = Table.of("things", Row, key=("id",))
    assert (table.name, table.description, table.key) == ("things", "One row per thing.", ("id",))
    assert table.columns[1:] == (
        Column("id", TEXT, "", "its ID"),
        Column("count", INT64, "1", "how many"),
        Column("seconds", FLOAT, "s", "how long", optional=True),
        Column("kept", BOOLEANS, "boolean", "which ones", undefined=True),
    )
    assert as_mapping(Row(id="a", count=1, seconds=None, kept=[True])) == {
        "id": "a",
        "count": 1,
        "seconds": None,
        "kept": [True],
    }


@pytest.mark.parametrize("name", TABLES)
def test_empty_table_has_the_full_schema(name, tmp_path):
    store = Store.create_or_open(tmp_path, MANIFEST)
    assert store.read_table(name).schema.equals(TABLES[name].schema, check_metadata=True)
    store.commit("id", "kind", 1, {name: []})
    assert store.read_table(name).num_rows == 0
    assert store.read_table(name).schema.equals(TABLES[name].schema, check_metadata=True)


@pytest.mark.parametrize("name", TABLES)
def test_missing_and_unknown_columns_are_refused_with_the_valid_ones(name):
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
def test_value_of_wrong_type_is_refused_with_its_row_and_column(column, value):
    rows = point_rows("id")
    rows[1][column] = value
    with pytest.raises(UsageError, match=f"row 1 for table 'points': {column} is .*, must be "):
        to_arrow("points", rows)


@pytest.mark.parametrize("value", ["10", [True, None], [1, 0], [[True]]])
def test_list_of_other_values_than_booleans_is_refused(value):
    with pytest.raises(UsageError, match="robust"):
        to_arrow("per_example", [per_example_row("id", "base", "fgsm", robust=value)])


@pytest.mark.parametrize("value", [1, 0, "true", None, np.bool_(True)])
def test_boolean_column_takes_booleans_alone(value):
    with pytest.raises(UsageError, match=r"row 0 for table 'tasks': learned is .*, must be bool"):
        to_arrow("tasks", [task_row("id", learned=value)])


@pytest.mark.parametrize(("column", "value"), [("step", 2**63), ("name", "\ud800")])
def test_value_that_arrow_cannot_hold_is_refused_with_its_column(column, value):
    with pytest.raises(UsageError, match=f"{column} for table 'points' does not fit"):
        to_arrow("points", point_rows("id", num_points=1, **{column: value}))


def test_none_is_valid_in_optional_columns_alone():
    for name, table in TABLES.items():
        for column in table.columns[1:]:
            row = [{**ROWS[name][0], column.name: None}]
            if column.optional:
                assert to_arrow(name, row)[column.name].null_count == 1
            else:
                with pytest.raises(UsageError, match=f"{column.name} is None"):
                    to_arrow(name, row)


def test_numpy_numbers_are_accepted():
    row = point_rows("id", num_points=1, step=np.int32(4), sparsity=np.float32(0.5), gain=3)[0]
    kept = to_arrow("points", [row]).to_pylist()[0]
    assert (kept["step"], kept["sparsity"], kept["gain"]) == (4, 0.5, 3.0)


def test_nan_is_valid_in_undefined_columns():
    kept = to_arrow("measures", [measures_row("id", "all", "ensemble", kappa=math.nan)])["kappa"]
    assert kept.null_count == 0
    assert math.isnan(kept[0].as_py())


def numbers() -> list[tuple[str, Column]]:
    kinds = (pa.int32(), pa.int64(), pa.float64())
    return [(name, each) for name, table in TABLES.items() for each in table.columns[1:] if each.type in kinds]


@pytest.mark.parametrize(("name", "column"), numbers(), ids=lambda value: getattr(value, "name", value))
def test_number_out_of_range_is_refused_on_writing_and_reading(name, column, tmp_path):
    least, most = column.range
    outside = [least - 1, most + 1, -math.inf, math.inf, math.nan]
    if column.type == pa.float64():
        strange = [value for value in outside if not (least <= value <= most or (column.undefined and value != value))]
        assert column.undefined or math.nan in strange
    else:
        strange = [-5]
    store = Store.create_or_open(tmp_path, MANIFEST)
    store.commit("id", "kind", 1, {name: ROWS[name]})
    whole = store.read_table(name)
    for value in strange:
        with pytest.raises(UsageError, match=f"row 0 for table '{name}': {column.name} is {re.escape(str(value))}"):
            to_arrow(name, [{**ROWS[name][0], column.name: value}])
    changed = [{**row, column.name: strange[-1]} if place == 0 else row for place, row in enumerate(whole.to_pylist())]
    resealed(tmp_path, name, pa.Table.from_pylist(changed, whole.schema))
    reader = Store.open(tmp_path)
    for read, *given in ((reader.verify,), (reader.read_table, name), (compact, reader), (load, tmp_path)):
        with pytest.raises(CorruptFileError, match=rf"{name}.id\.parquet has a row with {column.name} "):
            read(*given)


def resealed(directory: Path, name: str, rows: pa.Table) -> None:
    """Replace the rows of a table, with valid checksums."""
    content = parquet_bytes(rows)
    (directory / name / "id.parquet").write_bytes(content)
    record = directory / "commits" / "id.json"
    data = read_json(record.read_bytes())
    record.write_bytes(json_bytes({**data, "files": {f"{name}/id.parquet": sha256_of(content)}}))


@pytest.mark.parametrize("name", TABLES)
def test_duplicate_keys_are_refused(name):
    with pytest.raises(UsageError, match=r"2 rows for table .* have only 1 different \("):
        to_arrow(name, [ROWS[name][0], {**ROWS[name][0], "study": "another"}])


def test_unknown_table_is_refused_with_the_valid_ones(tmp_path):
    with pytest.raises(UsageError, match=f"tables are {', '.join(TABLES)}"):
        to_arrow("point", [])
    with pytest.raises(UsageError, match="no table 'point'"):
        Store.create_or_open(tmp_path, MANIFEST).read_table("point")


def test_columns_have_a_description_and_one_type_in_all_tables():
    types: dict[str, pa.DataType] = {}
    for table in TABLES.values():
        assert table.description
        assert set(table.key) <= {column.name for column in table.columns}
        for column in table.columns:
            assert column.description
            assert bool(column.unit) == (column.type != pa.string())
            assert types.setdefault(column.name, column.type) == column.type
