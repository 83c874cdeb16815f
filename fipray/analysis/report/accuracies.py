"""Sections on clean and robust accuracy: all networks with their intervals, and the front of the two."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from fipray.analysis.pareto import pareto
from fipray.analysis.report.content import Chart, Column, Kind, Limits, Section, Table, cut, focus, rounded
from fipray.analysis.report.intervals import wilson
from fipray.analysis.report.side import Side, columns_of, named, plain, together
from fipray.analysis.report.wording import accuracy, count, epsilon, listing, percent, threat
from fipray.analysis.summary_table import KINDS, WORST

_NETWORKS = ("name", "kind", "num_members", "sparsity", "functional_distance_held_out", "outcome", "warnings")
_ATTACKS = ("name", "kind", "num_members", "attack", "norm", "epsilon", "num_examples")
_PERCENT: dict[str, Kind] = {"sparsity": "percent", "clean_accuracy": "percent", "epsilon": "epsilon"}
NO_ATTACK = "no attack"


def accuracies(sides: Sequence[Side], limits: Limits) -> Section | None:
    """All networks with their clean and robust accuracies and 95 % Wilson intervals.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if no accuracy was measured.
    """
    rows = together(sides, lambda side: side.networks)
    if rows["clean_accuracy"].isna().all() and all(side.attacked.empty for side in sides):
        return None
    tables = [_networks(sides, rows)]
    attacked = together(sides, lambda side: side.attacked)
    if len(attacked):
        tables.append(_attacks(sides, attacked))
    charts = list(_by_threat(sides, attacked, limits)) if len(attacked) else [_clean(sides, rows, limits)]
    masked = attacked.loc[attacked["warnings"].fillna("") != "", "name"].unique() if len(attacked) else []
    sentences = [
        "Intervals in brackets are 95 % Wilson intervals of the test examples; they say nothing of other seeds."
    ]
    if len(attacked) == 0:
        sentences.append("No network was attacked, so there is no robust accuracy.")
    if rows["num_examples"].isna().any():
        sentences.append("A clean accuracy without an interval was measured along a path, on all of the test inputs.")
    if len(masked):
        sentences.append(
            "There are signs of gradient masking, so robust accuracy may be overestimated, in: "
            f"{listing(masked, 12)} (column warnings of the table of attacks)."
        )
    return Section("accuracy", "Accuracy", sentences, charts, tables)


def _networks(sides: Sequence[Side], rows: pd.DataFrame) -> Table:
    columns = {column.name: column for column in columns_of(sides, rows, _NETWORKS, **_PERCENT)}
    clean = Column("clean_accuracy", plain(rows["clean_accuracy"]), "percent", num_examples=plain(rows["num_examples"]))
    robust = [_robust(sides, rows, norm, bound) for norm, bound in _threats(sides)]
    first = [columns.pop(name) for name in ("results", "name", "kind", "num_members") if name in columns]
    return Table("networks", "Networks", [*first, clean, *robust, *columns.values()])


def _robust(sides: Sequence[Side], rows: pd.DataFrame, norm: str, bound: float) -> Column:
    worst = together(sides, lambda side: side.worst)
    worst = worst[(worst["norm"] == norm) & (worst["epsilon"] == bound)]
    keys = ["results", "kind", "name"]
    found = rows[keys].merge(worst[[*keys, "robust_accuracy", "num_examples"]], on=keys, how="left")
    values, sizes = plain(found["robust_accuracy"]), plain(found["num_examples"])
    # The bound in full: it is part of the name in CSV files.
    name = f"robust_accuracy {norm} {bound:g}"
    return Column(name, values, "percent", f"robust accuracy, {threat(norm, bound)}", sizes)


def _threats(sides: Sequence[Side]) -> list[tuple[str, float]]:
    rows = together(sides, lambda side: side.worst)[["norm", "epsilon"]].drop_duplicates()
    return [(str(norm), float(bound)) for norm, bound in rows.sort_values(["norm", "epsilon"]).to_numpy().tolist()]


def _attacks(sides: Sequence[Side], rows: pd.DataFrame) -> Table:
    sizes = plain(rows["num_examples"])
    columns = columns_of(sides, rows, _ATTACKS, **_PERCENT)
    columns += [
        Column(name, plain(rows[name]), "percent", num_examples=sizes) for name in ("clean_accuracy", "robust_accuracy")
    ]
    columns += columns_of(sides, rows, ("warnings", "seconds"), seconds="seconds")[len(sides) > 1 :]
    return Table("attacks", "Every attack", columns)


def chosen(rows: pd.DataFrame, limits: Limits, by: str, kinds: Sequence[str] = ("base", "ensemble")) -> pd.DataFrame:
    """Networks for a chart: the base, ensembles, and the best others.

    Args:
        rows: rows with `results`, `kind`, `name` and the column `by`.
        limits: upper limits.
        by: column in which higher is better.
        kinds: kinds that come first.

    Returns:
        At most `limits.networks` of the rows, in their order.
    """
    if len(rows) <= limits.networks:
        return rows
    first = rows["kind"].isin(kinds)
    order = rows.assign(first=first).sort_values(["first", by], ascending=False, kind="stable")
    return rows.loc[sorted(order.index[: limits.networks])]


def label(sides: Sequence[Side], rows: pd.DataFrame) -> list[str]:
    """Labels of networks in a chart.

    Args:
        sides: results directories.
        rows: rows with `results` and `name`.

    Returns:
        Names, with the directory in front if there are several.
    """
    return [named(sides, row) for _, row in rows[["results", "name"]].iterrows()]


def _by_threat(sides: Sequence[Side], attacked: pd.DataFrame, limits: Limits) -> Iterator[Chart]:
    """Dots of accuracy for each threat model: without attack, and under each attack."""
    for (norm, bound), rows in attacked.groupby(["norm", "epsilon"], sort=True):
        worst = rows[rows["attack"] == WORST]
        shown = chosen(worst, limits, "robust_accuracy")
        keys = ["results", "kind", "name"]
        own = shown[keys].assign(row=range(len(shown))).merge(rows, on=keys)
        marks = pd.concat(
            [shown.assign(row=range(len(shown)), attack=NO_ATTACK, robust_accuracy=shown["clean_accuracy"]), own]
        )
        attacks = [name for name in own["attack"].unique() if name != WORST]
        yield Chart(
            "dots",
            f"Clean and robust accuracy at {threat(str(norm), float(bound))}",
            _reading(sides, worst)
            + cut(len(shown), len(worst), "network", ": the base, ensembles and the most robust others"),
            {
                "rows": label(sides, shown),
                "x": "accuracy, %",
                "percent": True,
                "zoom": _zoom(shown),
                **_marks(marks, [NO_ATTACK, *attacks, WORST], "attack", "robust_accuracy", thin=attacks),
            },
        )


def _zoom(worst: pd.DataFrame) -> list[float] | None:
    """Range from the lower robust accuracies of the good networks to the highest clean one, if it is a small part."""
    robust, clean = worst["robust_accuracy"], worst["clean_accuracy"]
    good = focus(robust)
    if good is None or clean.max() - good[0] > (clean.max() - robust.min()) / 2:
        return None
    return [good[0], float(clean.max())]


def _marks(rows: pd.DataFrame, series: Sequence[str], by: str, value: str, thin: Sequence[str] = ()) -> dict[str, Any]:
    low, high = wilson(rows[value], rows["num_examples"])
    return {
        "series": [{"name": name, "thin": name in thin, "hollow": name == NO_ATTACK} for name in series],
        "row": rows["row"].tolist(),
        "of": [series.index(name) for name in rows[by]],
        "value": rounded(rows[value]),
        "low": rounded(low),
        "high": rounded(high),
    }


def _reading(sides: Sequence[Side], worst: pd.DataFrame) -> str:
    """Sentence on how many networks are above the base by more than both intervals."""
    base = worst[worst["kind"] == "base"].drop_duplicates("results")
    others = worst[worst["kind"] != "base"].merge(base, on="results", suffixes=("", "_base"))
    if others.empty:
        best = worst.loc[worst["robust_accuracy"].idxmax()]
        return f"Highest: {named(sides, best)}, {accuracy(best['robust_accuracy'], best['num_examples'])}."
    low, high = wilson(others["robust_accuracy"], others["num_examples"])
    base_low, base_high = wilson(others["robust_accuracy_base"], others["num_examples_base"])
    above, below = int((low > base_high).sum()), int((high < base_low).sum())
    return (
        f"Of {count(len(others), 'network')} besides the base, the interval of robust accuracy lies entirely above "
        f"that of the base for {above}, entirely below for {below}, and overlaps it for {len(others) - above - below}."
    )


def _clean(sides: Sequence[Side], rows: pd.DataFrame, limits: Limits) -> Chart:
    known = rows[rows["clean_accuracy"].notna()].reset_index(drop=True)
    shown = chosen(known, limits, "clean_accuracy").assign(series=NO_ATTACK)
    shown["row"] = range(len(shown))
    lowest, best = known.loc[known["clean_accuracy"].idxmin()], known.loc[known["clean_accuracy"].idxmax()]
    reading = f"Highest: {named(sides, best)}, {accuracy(best['clean_accuracy'], best['num_examples'])}"
    reading += f"; lowest: {named(sides, lowest)}, {percent(lowest['clean_accuracy'])}." if len(known) > 1 else "."
    return Chart(
        "dots",
        "Clean accuracy",
        reading + cut(len(shown), len(known), "network", ": the base, ensembles and the most accurate others"),
        {
            "rows": label(sides, shown),
            "x": "accuracy, %",
            "percent": True,
            **_marks(shown, [NO_ATTACK], "series", "clean_accuracy"),
        },
    )


def front(sides: Sequence[Side], limits: Limits) -> Section | None:
    """Robust over clean accuracy of all networks, with the Pareto front of each directory.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if no network was attacked, or only the base.
    """
    worst = together(sides, lambda side: side.worst)
    if len(worst) < 2:
        return None
    charts = [
        _front(sides, rows, str(norm), float(bound))
        for (norm, bound), rows in worst.groupby(["norm", "epsilon"], sort=True)
        if len(rows) > 1
    ]
    sentences = [
        "Both accuracies are on the attacked examples. A step line joins the networks that no other one of the same "
        "directory beats in both; the space below and left of it is reached."
    ]
    return Section("front", "Clean against robust accuracy", sentences, charts) if charts else None


def _front_in_words(best: pd.DataFrame, where: str) -> str:
    what = listing(count(int(num), str(kind)) for kind, num in best["kind"].value_counts().items())
    ends = [
        f"{percent(row.robust_accuracy)} at {percent(row.clean_accuracy)}" for row in best.iloc[[0, -1]].itertuples()
    ]
    span = f"from {ends[0]} to {ends[1]}" if ends[0] != ends[1] else ends[0]
    return f"The front{where} holds {what}: robust accuracy is {span} clean accuracy."


def _front(sides: Sequence[Side], rows: pd.DataFrame, norm: str, bound: float) -> Chart:
    rows = rows.reset_index(drop=True)
    by = "results" if len(sides) > 1 else "kind"
    names = [each for each in ([side.label for side in sides] if len(sides) > 1 else KINDS) if each in {*rows[by]}]
    fronts, parts = [], []
    for side in sides:
        own = rows[rows["results"] == side.label]
        if own.empty:
            continue
        best = pareto(own).sort_values(["clean_accuracy", "robust_accuracy"], ascending=[True, False])
        fronts.append(
            {
                "series": names.index(side.label) if by == "results" else None,
                "x": rounded(best["clean_accuracy"]),
                "y": rounded(best["robust_accuracy"]),
            }
        )
        parts.append(_front_in_words(best, f" of {side.label}" if len(sides) > 1 else ""))
    ends = {name: wilson(rows[name], rows["num_examples"]) for name in ("clean_accuracy", "robust_accuracy")}
    return Chart(
        "scatter",
        f"Robust over clean accuracy at {threat(norm, bound)}",
        " ".join(parts),
        {
            "x": {"label": "clean accuracy, %", "percent": True},
            "y": {"label": f"robust accuracy at ε = {epsilon(bound)}, %", "percent": True},
            "series": [{"name": name} for name in names],
            "of": [names.index(each) for each in rows[by]],
            "label": label(sides, rows),
            "xs": rounded(rows["clean_accuracy"]),
            "ys": rounded(rows["robust_accuracy"]),
            "bars": {
                "x": [rounded(end) for end in ends["clean_accuracy"]],
                "y": [rounded(end) for end in ends["robust_accuracy"]],
            },
            "fronts": fronts,
            "zoom": {"x": focus(rows["clean_accuracy"]), "y": focus(rows["robust_accuracy"])},
        },
    )
