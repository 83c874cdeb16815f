"""Hostile results directories: links, FIFOs, names that lead out of them, consistent files with impossible contents.

Each of `HOSTILE` changes a whole results directory; `outside` is a directory beside it that nothing may touch, with
`secret.txt`, `secret.safetensors`, `canary.parquet` and the folders `tables` and `empty`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from fipray.records.encoding import json_bytes, read_json, sha256_of
from fipray.records.tables import TABLES, TEXT

SECRET = "the secret that is outside"
Change = Callable[[Path, Path], object]


def make_outside(outside: Path) -> None:
    """Make files outside that must stay unchanged and unread."""
    for folder in ("tables", "empty"):
        (outside / folder).mkdir(parents=True)
    (outside / "secret.txt").write_text(SECRET)
    safetensors.numpy.save_file({"weights": np.frombuffer(SECRET.encode(), np.uint8)}, outside / "secret.safetensors")
    for file in (outside / "canary.parquet", outside / "tables" / "canary.parquet"):
        pq.write_table(pa.table({"secret": [SECRET]}), file)


def _sealed(data: Mapping[str, Any], key: str = "seal_sha256") -> bytes:
    """As `json_bytes`, of what it would refuse as well."""
    seal = sha256_of(json.dumps(data, sort_keys=True).encode())
    return json.dumps({**data, key: seal}, indent=1).encode() + b"\n"


def commits(directory: Path) -> list[Path]:
    """Return the commit records of paths, or the one record of a compacted directory."""
    records = sorted((directory / "commits").iterdir())
    return [file for file in records if (directory / "points" / f"{file.stem}.parquet").exists()]


def _record(directory: Path, change: Callable[[dict[str, Any]], object], number: int = 0) -> None:
    file = commits(directory)[number]
    record = read_json(file.read_bytes())
    change(record)
    file.write_bytes(_sealed(record))


def _manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = read_json((directory / "study.json").read_bytes())
    change(manifest)
    (directory / "study.json").write_bytes(_sealed(manifest))


def _table_bytes(directory: Path, table: str, content: bytes) -> None:
    name = commits(directory)[0].stem
    (directory / table / f"{name}.parquet").write_bytes(content)
    _record(directory, lambda record: record["files"].update({f"{table}/{name}.parquet": sha256_of(content)}))


def _table(directory: Path, table: str, change: Callable[[pa.Table], pa.Table], **options: Any) -> None:
    rows = pq.ParquetFile(directory / table / f"{commits(directory)[0].stem}.parquet").read()
    buffer = pa.BufferOutputStream()
    pq.write_table(change(rows), buffer, **options)
    _table_bytes(directory, table, buffer.getvalue().to_pybytes())


def _column(directory: Path, table: str, column: str, value: Any) -> None:
    """Set every row of a column to a value, or to the result of a function of the old values."""

    def change(rows: pa.Table) -> pa.Table:
        field = rows.schema.field(column)
        values = value(rows[column].to_pylist()) if callable(value) else [value] * rows.num_rows
        return rows.set_column(rows.schema.get_field_index(column), field, pa.array(values, field.type))

    _table(directory, table, change)


def _weights(directory: Path, content: bytes) -> None:
    """Other weights at the end of a path, named by all rows of its commit."""
    row = pq.ParquetFile(directory / "paths" / f"{commits(directory)[0].stem}.parquet").read().to_pylist()[0]
    (directory / row["weights_file"]).write_bytes(content)
    for table in ("paths", "points", "variants"):
        if (directory / table / f"{commits(directory)[0].stem}.parquet").exists():

            def change(rows: pa.Table) -> pa.Table:
                there = zip(rows["weights_file"].to_pylist(), rows["weights_sha256"].to_pylist(), strict=True)
                new = [sha256_of(content) if file == row["weights_file"] else sha256 for file, sha256 in there]
                index = rows.schema.get_field_index("weights_sha256")
                return rows.set_column(index, rows.schema.field(index), pa.array(new, pa.string()))

            _table(directory, table, change)


def _link(place: Path, target: Path | str) -> None:
    """Replace a file by a link; if the target is missing, the file moves there."""
    if place.exists() and isinstance(target, Path) and not target.exists():
        shutil.move(place, target)
    elif place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    place.symlink_to(target)


def _instead(place: Path, make: Callable[[Path], object]) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    make(place)


def _socket(place: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(place.name)
    finally:
        os.chdir(here)


def _end(directory: Path) -> Path:
    """Return the weights file at the end of a path."""
    row = pq.ParquetFile(directory / "paths" / f"{commits(directory)[0].stem}.parquet").read().to_pylist()[0]
    return directory / row["weights_file"]


def _points(directory: Path) -> Path:
    return directory / "points" / f"{commits(directory)[0].stem}.parquet"


def _id(directory: Path) -> str:
    return next(iter(read_json(commits(directory)[0].read_bytes())["attempts"]))


def _second_record(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Add a record like the first, except for its name, files and the change."""
    record = read_json(commits(directory)[0].read_bytes())
    record |= {"name": "another", "files": {}}
    change(record)
    (directory / "commits" / "another.json").write_bytes(_sealed(record))


def _circle(directory: Path) -> None:
    _record(directory, lambda record: record.update(replaces=["another"]))
    _second_record(directory, lambda record: record.update(replaces=[commits(directory)[0].stem]))


def _many(text: str = "") -> Callable[[pa.Table], pa.Table]:
    """Two million rows, all of them like the first, in a small file; their texts are another."""
    places = pa.array(np.zeros(2_000_000, np.int32))

    def change(rows: pa.Table) -> pa.Table:
        arrays = {
            field.name: pa.DictionaryArray.from_arrays(places, pa.array([text]))
            if text and field.type == TEXT
            else rows[field.name].slice(0, 1).combine_chunks().take(places)
            for field in rows.schema
        }
        return pa.table(arrays)

    return change


def _header(text: str, data: bytes = b"\0" * 40) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


def _named(text: str) -> Change:
    """Set all text that users give, in every row."""

    def change(directory: Path, outside: Path) -> None:
        columns = (("paths", "name"), ("points", "name"), ("paths", "outcome"), ("paths", "objective"))
        for table, column in columns:
            _column(directory, table, column, text)

    return change


def _of_record(**changes: Any) -> Change:
    return lambda directory, outside: _record(directory, lambda record: record.update(changes))


def _of_manifest(**changes: Any) -> Change:
    return lambda directory, outside: _manifest(directory, lambda manifest: manifest.update(changes))


def _of_column(table: str, column: str, value: Any) -> Change:
    return lambda directory, outside: _column(directory, table, column, value)


def _of_weights(content: bytes) -> Change:
    return lambda directory, outside: _weights(directory, content)


def _of_table(change: Callable[[pa.Table], pa.Table], **options: Any) -> Change:
    return lambda directory, outside: _table(directory, "points", change, **options)


_DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
_FLOATS = '{"weights":{"dtype":"F32","shape":[10],"data_offsets":[%d,%d]}}'

LINKS: dict[str, Change] = {
    "a table is a link to tables outside": lambda d, o: _link(d / "points", o / "tables"),
    "commits is a link": lambda d, o: _link(d / "commits", o / "empty"),
    "commits was moved outside": lambda d, o: _link(d / "commits", o / "moved"),
    "weights is a link": lambda d, o: _link(d / "weights", o / "empty"),
    "weights of an id is a link": lambda d, o: _link(_end(d).parent.parent, o / "moved"),
    "weights of an attempt is a link": lambda d, o: _link(_end(d).parent, o / "moved"),
    "a weights file is a link to a secret": lambda d, o: _link(_end(d), o / "secret.safetensors"),
    "a table file is a link": lambda d, o: _link(_points(d), o / "canary.parquet"),
    "a table file was moved outside": lambda d, o: _link(_points(d), o / "moved"),
    "a commit record is a link": lambda d, o: _link(commits(d)[0], o / "moved"),
    "the manifest is a link": lambda d, o: _link(d / "study.json", o / "moved"),
    "the base is a link": lambda d, o: _link(d / "base.safetensors", o / "moved"),
    "the digest of the base is a link": lambda d, o: _link(d / "base.sha256", o / "secret.txt"),
    "the lock is a link to nothing": lambda d, o: _link(d / ".lock", o / "made"),
    "the lock is a link to a secret": lambda d, o: _link(d / ".lock", o / "secret.txt"),
    "logs is a link": lambda d, o: _link(d / "logs", o / "empty"),
    "Tune's place is a link": lambda d, o: _link(d / ".tune", o / "empty"),
    "Tune's place holds a link": lambda d, o: ((d / ".tune").mkdir(), _link(d / ".tune" / "x", o / "empty")),
    "a temporary is a link": lambda d, o: _link(d / f".fipray-{'a' * 16}-x", o / "secret.txt"),
    "a table is a link to itself": lambda d, o: _link(d / "points", "points"),
    "a table is a link in the directory": lambda d, o: _link(d / "points", "paths"),
}
OTHER_FILES: dict[str, Change] = {
    "weights are a FIFO": lambda d, o: _instead(_end(d), os.mkfifo),
    "a table file is a FIFO": lambda d, o: _instead(_points(d), os.mkfifo),
    "a commit record is a FIFO": lambda d, o: _instead(commits(d)[0], os.mkfifo),
    "the manifest is a FIFO": lambda d, o: _instead(d / "study.json", os.mkfifo),
    "the lock is a FIFO": lambda d, o: _instead(d / ".lock", os.mkfifo),
    "a temporary is a FIFO": lambda d, o: os.mkfifo(d / f".fipray-{'b' * 16}-x"),
    "weights are a socket": lambda d, o: _instead(_end(d), _socket),
    "weights are a device": lambda d, o: _link(_end(d), "/dev/zero"),
    "a table file is a directory": lambda d, o: _instead(_points(d), os.mkdir),
    "the manifest is a directory": lambda d, o: _instead(d / "study.json", os.mkdir),
    "a table is a file": lambda d, o: _instead(d / "points", Path.touch),
    "an attempt has a number past all numbers": lambda d, o: (d / "weights" / _id(d) / ("9" * 200)).mkdir(),
    "weights of a tebibyte": lambda d, o: os.truncate(_end(d), 2**40),
    "directories in directories": lambda d, o: (d / "/".join("d" * 200)).mkdir(parents=True),
}
NAMES: dict[str, Change] = {
    "a record's table file is outside": lambda d, o: _record(
        d, lambda r: r["files"].update({"points/../../outside/canary.parquet": "0" * 64})
    ),
    "a record's table file is a path of its own": lambda d, o: _record(
        d, lambda r: r["files"].update({str(o / "canary.parquet"): "0" * 64})
    ),
    "a record's table file has a backslash": lambda d, o: _record(
        d, lambda r: r["files"].update({"points\\x.parquet": "0" * 64})
    ),
    "a record of an id that leads outside": lambda d, o: _record(
        d, lambda r: r.update(attempts={"../../outside/x": 1}, kinds={"../../outside/x": "path"})
    ),
    "a record replaces what is outside": _of_record(replaces=["../../outside/secret"]),
    "a row's weights are an absolute path": lambda d, o: _column(
        d, "paths", "weights_file", str(o / "secret.safetensors")
    ),
    "a row's weights are outside": _of_column("points", "weights_file", "../outside/secret.safetensors"),
    "a row's weights go up on their way": _of_column(
        "points", "weights_file", "weights/x/../../../outside/secret.safetensors"
    ),
    "a row's weights are the manifest": _of_column("points", "weights_file", "study.json"),
    "a row's weights are another's": _of_column("points", "weights_file", "weights/other/1/end.safetensors"),
    "a row's weights have no digest": _of_column("paths", "weights_sha256", None),
    "names that lead outside": _named("../../outside/x"),
    "the study's name leads outside": _of_column("paths", "study", "../../outside"),
}
TEXTS: dict[str, Change] = {
    "names that are markup": _named("[/red]x[bold"),
    "names that are escape sequences": _named("\x1b[31m\x1b]0;title\x07\x9b2J\r\nfipray: all is well"),
    "names of the other direction": _named("\u202egnp.\u2066exe\u2069"),
    "names that are formulas": _named(r"$\frac{$ \undefined{"),
    "names that are emoji codes, and long": _named(":smile: " * 2000),
}
JSON: dict[str, Change] = {
    "the manifest is nested deep": lambda d, o: (d / "study.json").write_bytes(_DEEP),
    "a record is nested deep": lambda d, o: commits(d)[0].write_bytes(_DEEP),
    "a record is lists of lists": lambda d, o: commits(d)[0].write_bytes(b"[" * 100_000),
    "a record with a huge number": lambda d, o: commits(d)[0].write_bytes(b'{"name": ' + b"9" * 100_000 + b"}"),
    "a record of NaN": lambda d, o: _record(d, lambda r: r.update(attempts={_id(d): float("nan")})),
    "a record with a key twice": lambda d, o: commits(d)[0].write_bytes(
        commits(d)[0].read_bytes().replace(b'"name"', b'"name": "x", "name"', 1)
    ),
    "a record with half a surrogate pair": lambda d, o: _record(d, lambda r: r.update(kinds={"\ud800": "path"})),
    "a record that is not UTF-8": lambda d, o: commits(d)[0].write_bytes(b'{"name": "\xff\xfe"}'),
    "a record of an attempt below one": lambda d, o: _record(d, lambda r: r.update(attempts={_id(d): -1})),
    "a record of a huge attempt": lambda d, o: _record(d, lambda r: r.update(attempts={_id(d): 10**4000})),
    "a record of an attempt that is true": lambda d, o: _record(d, lambda r: r.update(attempts={_id(d): True})),
    "a record of nothing": _of_record(attempts={}, kinds={}),
    "a record with a key too many": _of_record(more=1),
    **{
        f"a record without {key}": lambda d, o, key=key: _record(d, lambda r: r.pop(key))
        for key in ("name", "attempts", "kinds", "files", "replaces")
    },
    **{
        f"a record whose {key} is {value!r}": _of_record(**{key: value})
        for key in ("name", "attempts", "kinds", "files", "replaces")
        for value in (None, 1, "x", [1], {"x": []})
    },
    **{
        f"a manifest without {key}": lambda d, o, key=key: _manifest(d, lambda m: m.pop(key))
        for key in ("study", "study_id", "parameters", "schema_version")
    },
    **{
        f"a manifest whose {key} is {value!r}": _of_manifest(**{key: value})
        for key in ("study", "study_id", "parameters", "schema_version", "parameters_of_module", "objectives")
        for value in (None, -1, "[/x]", [1], [[["x"], [-1]]], {"x": []})
        if (key, value) != ("parameters", {"x": []})
    },
}
COMMITS: dict[str, Change] = {
    "two records of one id": lambda d, o: _second_record(d, lambda r: None),
    "a record that replaces itself": lambda d, o: _record(d, lambda r: r.update(replaces=[r["name"]])),
    "records that replace each other": lambda d, o: _circle(d),
    "a record that replaces one whose rows it lacks": lambda d, o: _second_record(
        d, lambda r: r.update(replaces=[commits(d)[0].stem], attempts={"x": 1}, kinds={"x": "path"})
    ),
    "a record that replaces one of another attempt": lambda d, o: _second_record(
        d, lambda r: r.update(replaces=[commits(d)[0].stem], attempts={id: n + 1 for id, n in r["attempts"].items()})
    ),
    "a record under another's name": lambda d, o: shutil.copy(commits(d)[0], d / "commits" / "copy.json"),
}
TABLE_FILES: dict[str, Change] = {
    "a table that is no Parquet": lambda d, o: _table_bytes(d, "points", b"PAR1 and then nothing PAR1"),
    "an empty table file": lambda d, o: _table_bytes(d, "points", b""),
    "another table's rows": lambda d, o: _table_bytes(
        d, "points", (d / "paths" / f"{commits(d)[0].stem}.parquet").read_bytes()
    ),
    "a column is missing": _of_table(lambda rows: rows.drop_columns(["gain"])),
    "a column too many": _of_table(lambda rows: rows.append_column("more", rows["gain"])),
    "a column of another type": _of_table(lambda rows: rows.set_column(4, "step", rows["step"].cast("double"))),
    "no metadata": _of_table(lambda rows: rows.replace_schema_metadata({})),
    "nulls where there are none": _of_table(
        lambda rows: rows.set_column(rows.schema.get_field_index("gain"), "gain", pa.nulls(rows.num_rows, pa.float64()))
    ),
    "rows of another id": _of_column("points", "path_id", "another"),
    "rows of an attempt that is not committed": _of_column("points", "attempt", 2**62),
    "rows of an attempt below one": _of_column("points", "attempt", -1),
    "rows of another version": _of_column("points", "schema_version", 1),
    "every row twice": _of_table(lambda rows: pa.concat_tables([rows, rows])),
    "two rows of one step": _of_column("points", "step", 0),
    "a spec that is no JSON": _of_column("paths", "spec_json", "{"),
    "a spec that is nested deep": _of_column("paths", "spec_json", _DEEP.decode()),
    "two million rows": _of_table(_many(), compression="snappy"),
    "two million long texts": _of_table(
        _many("x" * 50_000), compression="snappy", store_schema=False, use_dictionary=True
    ),
    "texts in another compression": _of_table(_many("x" * 50_000), compression="zstd"),
    "numbers that are none": lambda d, o: [
        _column(d, table.name, column.name, float("nan"))
        for table in (TABLES["paths"], TABLES["points"])
        for column in table.columns
        if column.type == pa.float64()
    ],
    "a path that goes on from itself": lambda d, o: (
        _column(d, "paths", "start", "another"),
        _column(d, "paths", "parent_path_id", _id(d)),
    ),
    "a step past all steps": _of_column("points", "step", lambda values: [2**63 - 1 - n for n in range(len(values))]),
}
WEIGHTS: dict[str, Change] = {
    "weights that are no safetensors": _of_weights(b"nothing"),
    "weights with a header of an exbibyte": _of_weights(struct.pack("<Q", 2**60) + b"{}"),
    "weights with an impossible header": _of_weights(_header("{[")),
    "weights with a header that is nested deep": _of_weights(_header(_DEEP.decode())),
    "weights past the end": _of_weights(_header(_FLOATS % (0, 2**62))),
    "weights that end before they begin": _of_weights(_header(_FLOATS % (40, 0))),
    "weights before the beginning": _of_weights(_header(_FLOATS.replace("%d,%d", "-40,0"))),
    "weights that overlap": _of_weights(
        _header(
            '{"weights":{"dtype":"F32","shape":[5],"data_offsets":[0,20]},'
            '"b":{"dtype":"F32","shape":[5],"data_offsets":[10,30]}}'
        )
    ),
    "weights of a shape that is not theirs": _of_weights(_header(_FLOATS.replace("[10]", "[11]") % (0, 40))),
    "weights of a huge shape": _of_weights(_header(_FLOATS.replace("[10]", "[4294967296,4294967296]") % (0, 40))),
    "weights of a type that is none": _of_weights(_header(_FLOATS.replace("F32", "F33") % (0, 40))),
    "weights of a type that numpy lacks": _of_weights(_header(_FLOATS.replace("F32", "F8_E4M3") % (0, 10), b"\0" * 10)),
    "weights under another key": _of_weights(safetensors.numpy.save({"w": np.zeros(10, np.float32)})),
    "weights of another network": _of_weights(safetensors.numpy.save({"weights": np.zeros(7, np.float32)})),
    "weights in a matrix": _of_weights(safetensors.numpy.save({"weights": np.zeros((2, 5), np.float32)})),
}
HOSTILE: dict[str, Change] = {
    **LINKS, **OTHER_FILES, **NAMES, **TEXTS, **JSON, **COMMITS, **TABLE_FILES, **WEIGHTS
}  # fmt: skip
# What `verify` passes: text and numbers are shown as they are, and what is in nobody's way is left alone.
HARMLESS = {
    *TEXTS,
    "names that lead outside",
    "the study's name leads outside",
    "a step past all steps",
    "a path that goes on from itself",
    "Tune's place is a link",
    "Tune's place holds a link",
    "logs is a link",
    "the lock is a link to nothing",
    "the lock is a link to a secret",
    "the lock is a FIFO",
    "a temporary is a link",
    "a temporary is a FIFO",
    "directories in directories",
    "an attempt has a number past all numbers",
}
assert json_bytes({}) == _sealed({})
