"""Sections on the points of paths: functional distance, objective, accuracy, and measures and kept quantities."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fipray.analysis.report.content import Chart, Kind, Limits, Section, Table, rounded
from fipray.analysis.report.side import Side, columns_of, named, together
from fipray.analysis.report.wording import count, listing, number, percent, spread

_MOST_COLOURS = 7
_MOST_PANELS = 6
_WIDE = 1000  # ratio of the largest to the smallest value from which a logarithmic scale is used
_COLUMNS = (
    "name", "start", "objective", "stepper", "outcome_kind", "num_steps", "functional_distance_held_out",
    "functional_distance", "objective_start", "objective_end", "sparsity", "clean_accuracy", "warnings", "outcome",
)  # fmt: skip
_PERCENT: dict[str, Kind] = {"sparsity": "percent", "clean_accuracy": "percent"}


def walks(sides: Sequence[Side], limits: Limits) -> Section | None:
    """Functional distance, objective, sparsity and clean accuracy along each path.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if there are no paths yet.
    """
    paths = together(sides, lambda side: side.results.paths)
    points = together(sides, lambda side: side.results.points)
    if paths.empty or points.empty:
        return None
    lines = _Lines(sides, paths, points, limits)
    held_out = points["functional_distance_held_out"]
    distance = held_out.fillna(points["functional_distance"])
    panels = {"functional distance to the path's start, rad": (distance, None)}
    kinds = list(paths["objective"].value_counts().index)[: _MOST_PANELS - 3]
    for kind in kinds:
        panels[f"objective {kind}, lower is better"] = (points["objective_value"], kind)
    if points["clean_accuracy"].notna().any():
        panels["clean accuracy, %"] = (points["clean_accuracy"] * 100, None)
    if points["sparsity"].max() > 0.005:
        panels["sparsity, %"] = (points["sparsity"] * 100, None)
    chart = Chart("lines", "Along the paths", " ".join(_reading(sides, paths)) + lines.cut, lines.data(panels))
    table = Table("paths", "Ends of the paths", columns_of(sides, paths, _COLUMNS, **_PERCENT))
    sentences = ["Dots are the saved points; between them nothing was measured, and lines only lead the eye."]
    if held_out.isna().any():
        sentences.append("Distances are on held-out inputs, and on anchor inputs where there are none.")
    return Section("paths", "Paths", sentences, [chart], [table])


def _reading(sides: Sequence[Side], paths: pd.DataFrame) -> Iterator[str]:
    distance = paths["functional_distance_held_out"].fillna(paths["functional_distance"])
    where = "held-out inputs" if paths["functional_distance_held_out"].notna().all() else "their inputs"
    far = named(sides, paths.loc[distance.idxmax()])
    subject = "The path ends" if len(paths) == 1 else "Paths end"
    most = f"; the farthest is {far}" if len(paths) > 1 else ""
    yield f"{subject} at a functional distance of {spread(distance)} rad from the start on {where}{most}."
    fell = []
    for kind, rows in paths.groupby("objective", sort=False):
        lower = rows["objective_end"] < rows["objective_start"]
        usual = rows[lower & (rows["objective_start"] > 0) & (rows["objective_end"] >= 0)]
        by = 1 - usual["objective_end"] / usual["objective_start"]
        typical = f", in the median by {percent(by.median())}" if len(by) else ""
        fell.append(f"{kind} on {int(lower.sum())} of {count(len(rows), 'path')}{typical}")
    yield f"Objectives that fell: {listing(fell)}."


class _Lines:
    """Lines of a chart: the chosen paths, their colours, and their points thinned to the limits."""

    def __init__(self, sides: Sequence[Side], paths: pd.DataFrame, points: pd.DataFrame, limits: Limits) -> None:
        keys = ["results", "path_id"]
        every = paths.drop_duplicates(keys).reset_index(drop=True)
        # Evenly over the table, since the first ones may all be of one kind.
        places = np.unique(np.linspace(0, len(every) - 1, min(len(every), limits.lines)).round().astype(int))
        self.paths = every.iloc[places].reset_index(drop=True)
        # In turns, so that the lines of one colour do not cover those of the others.
        series = self._grouped(sides)
        turn = (series.groupby(series).cumcount() + 0.5) / series.map(series.value_counts())
        self.paths = self.paths.iloc[np.argsort(turn, kind="stable")].reset_index(drop=True)
        self._series = self._grouped(sides)
        numbers = {key: row for row, key in enumerate(self.paths[keys].itertuples(index=False, name=None))}
        line = pd.Series(
            [numbers.get(key, -1) for key in points[keys].itertuples(index=False, name=None)], points.index
        )
        kept = points[line >= 0].assign(line=line[line >= 0])
        most = max(limits.points // max(len(self.paths), 1), 2)
        self.points = kept[_thinned(kept["line"], most)].sort_values(["line", "step"], kind="stable")
        self.cut = ""
        if len(self.paths) < len(every):
            self.cut += f" Shown: {len(self.paths):,} of {len(every):,} paths, evenly over their table."
        if len(self.points) < len(kept):
            self.cut += f" Of {len(kept):,} points {len(self.points):,} are drawn, evenly along each path."

    def _grouped(self, sides: Sequence[Side]) -> "pd.Series[Any]":
        if len(self.paths) <= _MOST_COLOURS and len(sides) == 1:
            return self.paths["name"]
        return self.paths["results" if len(sides) > 1 else "objective"]

    def data(self, panels: Mapping[str, tuple["pd.Series[Any]", str | None]]) -> dict[str, Any]:
        """Plain data of the chart: a panel per quantity, of the paths of one objective or of all."""
        codes, names = pd.factorize(self._series, sort=len(self.paths) > _MOST_COLOURS)
        objectives = self.paths["objective"]
        return {
            "names": [str(name) for name in self.paths["name"]],
            "series": [{"name": str(name)} for name in names],
            "of": codes.tolist(),
            "line": self.points["line"].tolist(),
            "step": self.points["step"].tolist(),
            "panels": [
                self._panel(label, values.loc[self.points.index], None if kind is None else objectives == kind)
                for label, (values, kind) in panels.items()
            ],
        }

    def _panel(self, label: str, values: "pd.Series[Any]", only: Any) -> dict[str, Any]:
        shown = values if only is None else values.where(self.points["line"].map(only).astype(bool))
        known = shown.dropna()
        log = bool(len(known) and known.min() > 0 and known.max() / known.min() > _WIDE)
        return {"label": label + (", log scale" if log else ""), "log": log, "y": rounded(shown)}


def _thinned(line: "pd.Series[Any]", most: int) -> Any:
    """Rows to keep so that no line has more than `most` points; the first and last of each stay."""
    place, size = line.groupby(line).cumcount(), line.map(line.value_counts())
    fraction = (most - 1) / (size - 1).clip(lower=1)
    # A row is kept where the scaled place passes an integer; the last one passes most - 1.
    return (
        (size <= most)
        | (place == 0)
        | (place == size - 1)
        | ((place * fraction).astype(int) > ((place - 1) * fraction).astype(int))
    )


def measured(sides: Sequence[Side], limits: Limits) -> Section | None:
    """User-defined measures and distances of kept quantities along the paths, a panel each.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if there are neither.
    """
    paths = together(sides, lambda side: side.results.paths)
    own = together(sides, lambda side: side.results.point_measures)
    kept = together(sides, lambda side: side.results.point_distances)
    charts, tables, sentences = [], [], []
    for rows, column, value, title in (
        (own, "measure", "value", "Measures of the study"),
        (kept, "kept", "distance_held_out", "Distances of kept quantities on held-out inputs"),
    ):
        if rows.empty or paths.empty:
            continue
        wide = rows.pivot_table(index=["results", "path_id", "name", "step"], columns=column, values=value, sort=False)
        names, points = list(wide.columns)[:_MOST_PANELS], wide.reset_index()
        lines = _Lines(sides, paths, points, limits)
        ends = rows.drop_duplicates(["results", "path_id", column], keep="last")
        panels = {str(name): (points[name], None) for name in names}
        reading = " ".join(_at_ends(rows, ends, column, value, names))
        charts.append(Chart("lines", title, reading + lines.cut, lines.data(panels)))
        shown = ("name", "step", column, value, "distance")
        tables.append(Table(f"ends-{column}", f"{title}, at the end of each path", columns_of(sides, ends, shown)))
        if len(wide.columns) > _MOST_PANELS:
            sentences.append(f"{title}: drawn are {len(names)} of {len(wide.columns)}; the table has all.")
    return Section("measures", "Measures and kept quantities", sentences, charts, tables) if charts else None


def _at_ends(rows: pd.DataFrame, ends: pd.DataFrame, column: str, value: str, names: Sequence[str]) -> Iterator[str]:
    first = rows.drop_duplicates(["results", "path_id", column])
    parts = []
    for name in names:
        begun, ended = (some.loc[some[column] == name, value] for some in (first, ends))
        parts.append(f"{name} goes from {number(begun.median())} to {number(ended.median())}")
    many = "in the median over paths, " if ends["path_id"].nunique() > 1 else ""
    yield f"From the first to the last point, {many}{listing(parts)}."
