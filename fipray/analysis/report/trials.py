"""Section on a search: objectives of its trials, and the Pareto front."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fipray.analysis.report.content import Chart, Column, Kind, Limits, Section, Table, rounded
from fipray.analysis.report.headline import front_or_none
from fipray.analysis.report.side import Side, columns_of, plain
from fipray.analysis.report.wording import count, listing, number
from fipray.analysis.trial_frames import CONFIG, with_ends

_MEASURED = ("outcome_kind", "num_steps", "sparsity", "functional_distance_held_out", "objective_value", "gain",
             "clean_accuracy", "robust_accuracy")  # fmt: skip
_PERCENT: dict[str, Kind] = dict.fromkeys(("sparsity", "clean_accuracy", "robust_accuracy"), "percent")


def trials(sides: Sequence[Side], limits: Limits) -> Section | None:
    """Trials of searches: a chart of the first two objectives, and all searched values.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if no directory holds trials.
    """
    searches = [side for side in sides if len(side.results.trials)]
    if not searches:
        return None
    charts, tables = [], []
    for side in searches:
        rows, front = with_ends(side.results.frames), front_or_none(side)
        rows = rows.assign(on_front=rows["path_id"].isin(front["path_id"]).map({True: "yes", False: "no"}))
        where = f"{side.label}: " if len(sides) > 1 else ""
        objectives = side.results.manifest.get("objectives", {})
        if len(objectives) > 1 and {*objectives} <= {*rows}:
            charts.append(_chart(rows, objectives, where))
        tables.append(Table("trials", f"{where}Trials", _columns(side, rows)))
    best = [sentence for side in searches for sentence in _best(side)]
    return Section("search", "Search", best, charts, tables)


def _best(side: Side) -> list[str]:
    front = front_or_none(side)
    if front.empty:
        return [f"{side.label}: {count(len(side.results.trials), 'trial')}; none is on a front yet."]
    fields = [column for column in front if column.startswith(CONFIG)]
    name = next(iter(side.results.objectives))
    best = front.iloc[0]
    values = listing((f"{field.removeprefix(CONFIG)} = {_text(best[field])}" for field in fields), 8)
    return [f"The trial with the best {name.replace('_', ' ')} ({number(best[name])}) is {best['name']}: {values}."]


def _text(value: Any) -> str:
    """Write a searched value as a short text."""
    if isinstance(value, dict):
        return str(value.get("kind"))
    return number(value) if isinstance(value, float) else str(value)


def _columns(side: Side, rows: pd.DataFrame) -> list[Column]:
    fields = [column for column in rows if column.startswith(CONFIG)]
    columns = columns_of([side], rows, ("name", "on_front"))
    for field in fields:
        is_number = pd.api.types.is_numeric_dtype(rows[field].dtype)
        values = plain(rows[field]) if is_number else [_text(value) for value in rows[field]]
        columns.append(Column(field, values, "number" if is_number else "text", field.removeprefix(CONFIG)))
    own = [name for name in side.results.manifest.get("objectives", {}) if name not in _MEASURED]
    return [*columns, *columns_of([side], rows, (*_MEASURED, *own), **_PERCENT)]


def _axis(name: str, better: str) -> dict[str, Any]:
    is_percent = _PERCENT.get(name) == "percent"
    unit = ", %" if is_percent else ""
    return {"label": f"{name.replace('_', ' ')}{unit}, {better}", "percent": is_percent}


def _chart(rows: pd.DataFrame, objectives: Any, where: str) -> Chart:
    (x, better_x), (y, better_y), *_ = objectives.items()
    known = rows[rows[x].notna() & rows[y].notna()].reset_index(drop=True)
    best = known[known["on_front"] == "yes"].sort_values(x)
    words = {"min": "lower is better", "max": "higher is better"}
    return Chart(
        "scatter",
        f"{where}Objectives: {y.replace('_', ' ')} over {x.replace('_', ' ')}",
        f"{count(len(best), 'trial is', 'trials are')} on the Pareto front, of {count(len(known), 'trial')} with both "
        "objectives.",
        {
            "x": _axis(x, words[better_x]),
            "y": _axis(y, words[better_y]),
            "series": [{"name": "on the front"}, {"name": "other trials", "hollow": True}],
            "of": [0 if on == "yes" else 1 for on in known["on_front"]],
            "label": [str(name) for name in known["name"]],
            "xs": rounded(known[x]),
            "ys": rounded(known[y]),
        },
    )
