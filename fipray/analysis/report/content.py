"""Content of a report as data: sections with sentences, charts and tables. `page.py` encodes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, final

import numpy as np
import pandas as pd

from fipray.analysis.report.intervals import wilson
from fipray.analysis.report.wording import count, epsilon
from fipray.records import TABLES

Kind = Literal["text", "count", "percent", "number", "seconds", "epsilon"]
Data = Mapping[str, Any]
_DESCRIPTIONS = {column.name: column.description for table in TABLES.values() for column in table.columns}
_UNITS = {"percent": ", %", "seconds": ", s"}


@final
@dataclass(frozen=True)
class Limits:
    """Upper limits of what one page shows, so that it opens quickly. What is cut is said on the page.

    Args:
        rows: rows of a table.
        points: points of all lines of a chart.
        lines: lines of a chart.
        networks: networks of a chart or heat map.
    """

    rows: int = 5000
    points: int = 20_000
    lines: int = 500
    networks: int = 40

    def halved(self) -> Self:
        """Limits for a page that became too large."""
        return replace(self, rows=self.rows // 2, points=self.points // 2, lines=max(self.lines // 2, 20))


@final
@dataclass(frozen=True)
class Column:
    """Column of a table.

    Args:
        name: name in CSV files.
        values: one value per row; missing ones are None or NaN.
        kind: how values are shown and sorted.
        label: header; by default the name in words.
        num_examples: for accuracies, the numbers of examples, which give the intervals.
    """

    name: str
    values: Sequence[Any]
    kind: Kind = "text"
    label: str = ""
    num_examples: Sequence[Any] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        values = pd.Series(list(self.values), dtype=object)
        return not bool((values.notna() & (values != "")).any())

    def data(self, num_rows: int) -> Data:
        """Encode the first rows.

        Args:
            num_rows: number of rows.

        Returns:
            Texts and epsilons as different values and their numbers, to be short; others as they are.
        """
        values = list(self.values)[:num_rows]
        words = self.label or self.name.replace("_", " ")
        label = words if "seconds" in words else words + _UNITS.get(self.kind, "")
        named = {"name": self.name, "label": label, "kind": self.kind, "hint": _DESCRIPTIONS.get(self.name, "")}
        if self.kind in ("text", "epsilon"):
            codes, levels = pd.factorize(pd.Series(values, dtype=object))
            shown = {"shown": [epsilon(level) for level in levels]} if self.kind == "epsilon" else {}
            return {**named, "codes": codes.tolist(), "levels": list(levels), **shown}
        if self.num_examples is None:
            return {**named, "values": values}
        low, high = (rounded(end, 6) for end in wilson(values, list(self.num_examples)[:num_rows]))
        return {**named, "values": values, "low": low, "high": high}


@final
@dataclass(frozen=True)
class Table:
    """Table of a section, which the page sorts, filters and offers as CSV and LaTeX.

    Args:
        name: base name of the downloaded files.
        title: caption.
        columns: columns of equal lengths.
    """

    name: str
    title: str
    columns: Sequence[Column]

    def data(self, limits: Limits) -> Data:
        """Encode the table; columns without values are left out.

        Args:
            limits: upper limits.

        Returns:
            Plain data, with the number of rows before the limit as `num_rows`.
        """
        columns = [column.data(limits.rows) for column in self.columns if not column.is_empty]
        num_rows = len(self.columns[0].values)
        return {"name": self.name, "title": self.title, "num_rows": num_rows, "columns": columns}


@final
@dataclass(frozen=True)
class Chart:
    """Figure of a section.

    Args:
        kind: drawing in static/charts.js: dots, scatter, lines, heat or bars.
        title: title, in words that stand alone.
        reading: sentence on the data, which is also the description for screen readers.
        data: plain data for the drawing.
    """

    kind: Literal["dots", "scatter", "lines", "heat", "bars"]
    title: str
    reading: str
    data: Data


@final
@dataclass(frozen=True)
class Section:
    """Section of the page.

    Args:
        id: fragment of its address.
        title: heading.
        sentences: paragraphs below it.
        charts: figures.
        tables: tables.
        groups: further sentences, as lists with titles, which may be empty.
    """

    id: str
    title: str
    sentences: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    groups: Sequence[tuple[str, Sequence[str]]] = ()


def focus(values: Any) -> list[float] | None:
    """Range of the large values, where it is a small part of the whole: what a button zooms to.

    Args:
        values: accuracies, 0..1; NaN are left out.

    Returns:
        Least and greatest of the values above half of the greatest; None if these span more than half of it all, or are
        fewer than half of the values.
    """
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    large = known[known > known.max() / 2] if len(known) else known
    if 2 * len(large) < max(len(known), 1) or large.max() - large.min() > (known.max() - known.min()) / 2:
        return None
    return [float(large.min()), float(large.max())]


def rounded(values: Any, digits: int = 5) -> list[float | None]:
    """Round numbers to significant digits, to be short.

    Args:
        values: numbers.
        digits: significant digits.

    Returns:
        The numbers, with None in place of NaN.
    """
    found = np.asarray(values, float)
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in found]


def cut(shown: int, total: int, noun: str, which: str = "") -> str:
    """Say that a chart shows a part only.

    Args:
        shown: number of what is shown.
        total: number of what there is.
        noun: what it is.
        which: those that are shown, such as "with the highest accuracy".

    Returns:
        Sentence with a space in front; empty if everything is shown.
    """
    return f" Shown: {shown:,} of {count(total, noun)}{which}." if shown < total else ""
