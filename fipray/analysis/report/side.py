"""Results directories side by side, each with a label and the frames that several sections need."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, final

import pandas as pd

from fipray.analysis.report.content import Column, Kind
from fipray.analysis.results import BASE, Results
from fipray.analysis.summary_table import WORST
from fipray.analysis.table import NETWORK, NO_ATTACK, attacked, summary
from fipray.errors import UsageError

_KINDS: dict[str, Kind] = {"Int64": "count", "int64": "count", "float64": "number"}


@final
@dataclass(frozen=True, eq=False)
class Side:
    """Results of one directory.

    Args:
        label: short name, unique on the page.
        results: the results.
    """

    label: str
    results: Results

    @cached_property
    def networks(self) -> pd.DataFrame:
        """Rows of `summary`, with `num_examples` of the clean accuracy: NaN for one measured along a path alone."""
        rows = self.results.robustness.sort_values("num_examples", kind="stable").drop_duplicates(NETWORK, keep="last")
        return summary(self.results).merge(rows[[*NETWORK, "num_examples"]], on=NETWORK, how="left")

    @cached_property
    def attacked(self) -> pd.DataFrame:
        """Rows of `robustness` under attack, `worst` last."""
        return attacked(self.results)

    @cached_property
    def worst(self) -> pd.DataFrame:
        """Rows of `robustness` under the worst attack: one per network and threat model."""
        rows = self.attacked
        return rows[rows["attack"] == WORST].reset_index(drop=True)

    @cached_property
    def clean(self) -> pd.DataFrame:
        """Rows of `robustness` without attack."""
        rows = self.results.robustness
        return rows[rows["attack"] == NO_ATTACK]

    def base(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of the base network.

        Args:
            rows: rows with a column `kind`.

        Returns:
            Those of the base.
        """
        return rows[rows["kind"] == BASE]


def sides_of(results: Sequence[Results]) -> list[Side]:
    """Label results directories by the last parts of their addresses that tell them apart.

    Args:
        results: results of at least one directory.

    Returns:
        The sides, in that order.

    Raises:
        UsageError: if there is none, or one directory is given twice.
    """
    if not results:
        raise UsageError("a report needs at least one results directory; none was given")
    places = [PurePosixPath(each.address.replace("\\", "/")).parts for each in results]
    if twice := {each.address for place, each in zip(places, results, strict=True) if places.count(place) > 1}:
        raise UsageError(f"a report shows each results directory once; given twice: {', '.join(sorted(twice))}")
    length = 1
    while len({place[-length:] for place in places}) < len(places):
        length += 1
    labels = ["/".join(place[-length:]) for place in places]
    return [Side(label, each) for label, each in zip(labels, results, strict=True)]


def together(sides: Sequence[Side], frame_of: Callable[[Side], pd.DataFrame]) -> pd.DataFrame:
    """Join the frames of all sides, with the label of each in the column `results`.

    Args:
        sides: results directories.
        frame_of: function from a side to its frame.

    Returns:
        All rows, numbered anew.
    """
    frames = [frame_of(side).assign(results=side.label) for side in sides]
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(filled, ignore_index=True)


def named(sides: Sequence[Side], row: "pd.Series[Any]", column: str = "name") -> str:
    """Name a network or path, with its directory in front if there are several.

    Args:
        sides: results directories.
        row: row with the column and `results`.
        column: column with the name.

    Returns:
        The name.
    """
    return f"{row['results']} · {row[column]}" if len(sides) > 1 else str(row[column])


def columns_of(sides: Sequence[Side], rows: pd.DataFrame, names: Sequence[str], **kinds: Kind) -> list[Column]:
    """Columns of a table from those of a frame.

    Args:
        sides: results directories; with several, the first column names the directory.
        rows: rows with a column `results`.
        names: columns to show; those that the frame lacks are skipped.
        **kinds: kinds of columns that the dtype does not tell.

    Returns:
        The columns.
    """
    shown = [name for name in names if name in rows and not (name == "num_members" and (rows[name] == 1).all())]
    wanted = [*(["results"] if len(sides) > 1 else []), *shown]
    return [Column(name, plain(rows[name]), kinds.get(name, _kind(rows[name]))) for name in wanted]


def plain(values: "pd.Series[Any]") -> list[Any]:
    """Values of a column as Python objects.

    Args:
        values: the column.

    Returns:
        Values, with None in place of missing ones.
    """
    return [None if pd.isna(value) else value for value in values.tolist()]


def _kind(values: "pd.Series[Any]") -> Kind:
    return _KINDS.get(str(values.dtype), "text")
