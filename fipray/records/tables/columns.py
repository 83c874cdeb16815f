"""Columns of tables: their Arrow types, units, descriptions and ranges, derived from the fields of row classes.

A row class is a frozen dataclass with one annotated field per column, so a new column is one line:

    sparsity: Annotated[float, Field("fraction of weights that are zero", unit="fraction 0..1")]

The field's type gives the Arrow type (`str`, `int`, `float`, `bool`, `list[bool]`), and `| None` makes the column
nullable.
"""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from inspect import getdoc
from math import inf
from sys import float_info
from typing import Any, Self, TypeAlias, TypeVar, dataclass_transform, final, get_args, get_type_hints

import pyarrow as pa

# A change of any column is a change of this version: a directory of another version is refused, never migrated.
SCHEMA_VERSION = 10

TEXT, INT32, INT64, FLOAT, BOOLEAN = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
# Parquet calls the items of a list "element"; under another name the schema would not come back as it was written.
BOOLEANS = pa.list_(pa.field("element", pa.bool_(), nullable=False))
Rows: TypeAlias = Sequence[Mapping[str, object]]

_Row = TypeVar("_Row")
_TYPES = {str: TEXT, int: INT64, float: FLOAT, bool: BOOLEAN, list[bool]: BOOLEANS}
# Floats are left out on purpose: a float column without a unit fails with KeyError when the module is imported.
_UNITS = {TEXT: "", INT64: "1", BOOLEAN: "boolean", BOOLEANS: "boolean"}  # of columns that name none

_MOST = float_info.max
# Least and greatest valid number by unit. Measured quantities are finite; only a log-likelihood may be infinite.
_RANGES = {
    "1": (0, _MOST),
    "byte": (0, _MOST),
    "s": (0, _MOST),
    "nat": (0, inf),
    "nat, signed": (-inf, inf),
    "radian (Fisher-Rao)": (0, _MOST),
    "of the inputs": (0, _MOST),
    "of the weights": (0, _MOST),
    "fraction 0..1": (0, 1),
    "0..1": (0, 1),
    "0..2": (0, 2),
    "-1..1": (-1, 1),
    "cosine -1..1": (-1, 1),
}
_ROUNDING = 1e-6  # float32 results such as cosines and means of 1s exceed their range by a few units in the last place


@final
@dataclass(frozen=True)
class Field:
    """Annotation of a row class's field: what its column means.

    Args:
        description: meaning of the column, in one sentence without a full stop.
        unit: unit of its numbers, which also sets the range of valid ones; required for `float`. By default empty for
            text, "1" for integers (counts), and "boolean" for booleans.
        undefined: whether NaN is a valid value, for quantities that are undefined on some data.
    """

    description: str
    unit: str = ""
    undefined: bool = False


@final
@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: name of the column.
        type: Arrow type.
        unit: unit of its numbers, which sets their range; empty for text, "1" for counts.
        description: meaning of the column.
        optional: whether the column may hold nulls.
        undefined: whether the column may hold NaN.
    """

    name: str
    type: pa.DataType
    unit: str
    description: str
    optional: bool = False
    undefined: bool = False

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest valid number, widened by 1e-6 for floats; meaningless for other than numeric columns."""
        least, most = _RANGES.get(self.unit, (-_MOST, _MOST))
        return (least - _ROUNDING, most + _ROUNDING) if self.type == FLOAT else (least, most)

    @property
    def wanted(self) -> str:
        """Range of valid numbers in words, for error messages."""
        least, most = _RANGES.get(self.unit, (-_MOST, _MOST))
        if most < _MOST:
            return f"a number in {least}..{most}"
        return "a finite number" if least < 0 else "a number of 0 or more" + (", and finite" if most == _MOST else "")

    @property
    def field(self) -> pa.Field:
        """Arrow field, with `description` and `unit` as its metadata."""
        metadata = {"description": self.description, "unit": self.unit}
        return pa.field(self.name, self.type, nullable=self.optional, metadata=metadata)


VERSION_COLUMN = Column("schema_version", INT32, "1", "version of the table schema; filled in by `to_arrow`")


@final
@dataclass(frozen=True)
class Table:
    """One table of a results directory.

    Args:
        name: name of the table and of its directory.
        description: what one row stands for.
        key: columns that identify a row; the first of them holds the ID under which the row is committed.
        columns: all columns, in order; the first is `schema_version`.
    """

    name: str
    description: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @classmethod
    def of(cls, name: str, row: type, key: tuple[str, ...]) -> Self:
        """Make the table of a row class.

        Args:
            name: name of the table.
            row: row class; the first line of its docstring becomes the table's description.
            key: columns that identify a row, the one with the committed ID first.

        Returns:
            The table, with `schema_version` in front of the columns of the row class.
        """
        hints = get_type_hints(row, include_extras=True)  # extras: the `Field` of each annotation
        columns = tuple(_column(field.name, hints[field.name]) for field in fields(row))
        return cls(name, (getdoc(row) or "").partition("\n")[0], key, (VERSION_COLUMN, *columns))

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema: names, types and nullability of all columns.

        Metadata of the schema: `table`, `schema_version`; of each field: `description`, `unit`.
        """
        metadata = {"table": self.name, "schema_version": str(SCHEMA_VERSION)}
        return pa.schema([column.field for column in self.columns], metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def row(cls: type[_Row]) -> type[_Row]:
    """Make a class with annotated fields a row class: a frozen dataclass that takes its columns by keyword.

    Args:
        cls: class whose fields are annotated with a type and a `Field`.

    Returns:
        The row class.
    """
    # By keyword alone: with up to 30 columns of few types, positions would be mixed up unnoticed.
    return dataclass(frozen=True, kw_only=True)(cls)


def as_mapping(row: object) -> dict[str, object]:
    """Convert a row object to the mapping of column names to values that `Store.commit` takes.

    Args:
        row: object of a row class, such as a `PointRow`.

    Returns:
        The row's values by column, without `schema_version`; values are not copied.
    """
    # Not dataclasses.asdict, which copies every list of booleans element by element.
    return {field.name: getattr(row, field.name) for field in fields(row)}  # type: ignore[arg-type]


def _column(name: str, hint: Any) -> Column:
    kind, described = get_args(hint)
    # `X | None`; before Python 3.14 typing.Optional[X] is of another class, which is not expected here.
    optional = isinstance(kind, types.UnionType)
    type = _TYPES[next(each for each in get_args(kind) if each is not types.NoneType) if optional else kind]
    unit = described.unit or _UNITS[type]
    return Column(name, type, unit, described.description, optional, described.undefined)
