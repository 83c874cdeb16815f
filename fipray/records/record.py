"""Commit records: the attempts that are valid, and the table files that hold their rows."""

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from fipray.records import layout
from fipray.records.encoding import read_json
from fipray.records.tables import TABLES


class CommitRecord(TypedDict):
    """Content of commits/<name>.json.

    Attributes:
        name: name of the commit.
        attempts: number of the valid attempt at each ID.
        kinds: kind of job of each ID, such as "path".
        files: SHA-256 in hexadecimal of each table file.
        replaces: names of earlier commits whose rows are all in this one.
    """

    name: str
    attempts: dict[str, int]
    kinds: dict[str, str]
    files: dict[str, str]
    replaces: list[str]


def read_record(content: bytes, name: str) -> CommitRecord:
    """Parse and validate a commit record.

    Args:
        content: content of the file.
        name: name of the commit, from the name of the file.

    Returns:
        The record.

    Raises:
        ValueError: for content that is not a valid record of that name; the message continues the sentence
            "<file> ...".
    """
    try:
        record = read_json(content)
    except ValueError as error:
        raise ValueError("is truncated or altered") from error
    if record.keys() != CommitRecord.__annotations__.keys():
        wanted, found = ", ".join(CommitRecord.__annotations__), ", ".join(map(repr, record))
        raise ValueError(f"is not a commit record: it has the keys {found}, not {wanted}")
    if record["name"] != name:
        raise ValueError(f"is the record of {record['name']!r}")
    for key, is_valid in _CHECKS.items():
        if not is_valid(record):
            raise ValueError(f"is not a commit record: {key} is {_short(record[key])}")
    return cast(CommitRecord, record)


def _are_attempts(record: Mapping[str, Any]) -> bool:
    return _maps(record["attempts"], layout.is_name, layout.is_attempt) and len(record["attempts"]) > 0


def _are_kinds(record: Mapping[str, Any]) -> bool:
    kinds = record["kinds"]
    return _maps(kinds, layout.is_name, layout.is_name) and kinds.keys() == record["attempts"].keys()


def _are_files(record: Mapping[str, Any]) -> bool:
    # A record may name its own table files alone, so that an altered one leads nowhere else.
    own = {layout.table_file(table, record["name"]) for table in TABLES}
    return _maps(record["files"], own.__contains__, layout.is_sha256)


def _are_replaced(record: Mapping[str, Any]) -> bool:
    names = record["replaces"]
    return isinstance(names, list) and all(map(layout.is_name, names)) and record["name"] not in names


# In this order: `_are_kinds` relies on valid attempts.
_CHECKS = {"attempts": _are_attempts, "kinds": _are_kinds, "files": _are_files, "replaces": _are_replaced}


def _maps(value: Any, is_key: Any, is_value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_key, value)) and all(map(is_value, value.values()))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
