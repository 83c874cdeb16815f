"""Section on sparse networks: accuracy over sparsity, sizes, and multiply-adds."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from fipray.analysis.report.accuracies import label
from fipray.analysis.report.content import Chart, Column, Kind, Limits, Section, Table, cut, focus, rounded
from fipray.analysis.report.intervals import wilson
from fipray.analysis.report.side import Side, columns_of, named, plain, together
from fipray.analysis.report.wording import count, percent, threat
from fipray.analysis.variants import judged_variants

_COLUMNS = (
    "name", "network", "target_sparsity", "sparsity", "step", "functional_distance_held_out", "num_weights",
    "non_zeros", "bytes_dense", "bytes_csr", "bytes_2_4", "multiply_adds", "multiply_adds_non_zero",
)  # fmt: skip
_PERCENT: dict[str, Kind] = {"target_sparsity": "percent", "sparsity": "percent", "bytes_2_4": "count"}


def sparsity(sides: Sequence[Side], limits: Limits) -> Section | None:
    """Clean and robust accuracy over sparsity, one line per path.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if no path passed through a sparse network.
    """
    rows = together(sides, lambda side: judged_variants(side.results))
    if rows.empty:
        return None
    # Clean accuracy is on all test inputs where the variant was evaluated.
    sizes = together(sides, lambda side: side.clean)
    sizes = sizes[["results", "name", "num_examples"]].rename(columns={"name": "network", "num_examples": "num_clean"})
    rows = rows.merge(sizes.drop_duplicates(["results", "network"]), on=["results", "network"], how="left")
    charts = []
    variants = rows.drop_duplicates(["results", "path_id", "target_sparsity"])
    if variants["clean_accuracy"].notna().any():
        base = together(sides, lambda side: side.base(side.networks))
        charts.append(
            _chart(sides, variants, base, "Clean accuracy over sparsity", ("clean_accuracy", "num_clean"), limits)
        )
    for (norm, bound), some in rows.dropna(subset=["robust_accuracy"]).groupby(["norm", "epsilon"], sort=True):
        worst = together(sides, lambda side: side.base(side.worst))
        base = worst[(worst["norm"] == norm) & (worst["epsilon"] == bound)]
        title = f"Robust accuracy over sparsity, {threat(str(norm), float(bound))}"
        charts.append(_chart(sides, some, base, title, ("robust_accuracy", "num_examples"), limits))
    columns = columns_of(sides, variants, _COLUMNS, **_PERCENT)
    columns.insert(
        4,
        Column(
            "clean_accuracy", plain(variants["clean_accuracy"]), "percent", num_examples=plain(variants["num_clean"])
        ),
    )
    sentences = ["Marks are networks that were kept at a sparsity; the lines between them only lead the eye."]
    return Section("sparsity", "Sparsity", sentences, charts, [Table("variants", "Sparse networks", columns)])


def _chart(
    sides: Sequence[Side],
    rows: pd.DataFrame,
    base: pd.DataFrame,
    title: str,
    columns: tuple[str, str],
    limits: Limits,
) -> Chart:
    value, size = columns
    rows = rows[rows[value].notna()].assign(line=label(sides, rows[rows[value].notna()]))
    base = base[base["results"].isin(rows["results"])]
    lines = list(rows["line"].unique())
    drawn = rows[rows["line"].isin(lines[: limits.networks])]
    low, high = wilson(drawn[value], drawn[size])
    of_base = base[base[value].notna()] if value in base else base.head(0)
    return Chart(
        "scatter",
        title,
        " ".join(_reading(sides, rows, of_base, value)) + cut(min(len(lines), limits.networks), len(lines), "path"),
        {
            "x": {"label": "sparsity, % of weights that are zero", "sparsity": True},
            "y": {"label": "accuracy, %", "percent": True},
            "series": [{"name": name} for name in lines[: limits.networks]],
            "of": [lines.index(name) for name in drawn["line"]],
            "label": label(sides, drawn.assign(name=drawn["network"])),
            "xs": rounded(drawn["sparsity"], 6),
            "ys": rounded(drawn[value]),
            "bars": {"y": [rounded(low), rounded(high)]},
            "joined": True,
            "zoom": {"x": None, "y": focus(pd.concat([drawn[value], of_base[value]]))},
            "rules": [
                {"y": y, "label": text} for y, text in zip(rounded(of_base[value]), label(sides, of_base), strict=True)
            ],
        },
    )


def _reading(sides: Sequence[Side], rows: pd.DataFrame, base: pd.DataFrame, value: str) -> Iterator[str]:
    last = rows.loc[rows["sparsity"].idxmax()]
    highest = f"{percent(last['sparsity'])} in {named(sides, last, 'network')}"
    yield f"At the highest sparsity, {highest}, accuracy is {percent(last[value])}."
    against = base.set_index("results")[value]
    within: Any = rows[rows[value] >= rows["results"].map(against) - 0.01]
    if len(against) and len(within):
        most = within.loc[within["sparsity"].idxmax()]
        highest = f"{percent(most['sparsity'])} ({named(sides, most, 'network')})"
        yield f"Within one point of the base it stays up to a sparsity of {highest}."
    elif len(against):
        yield f"None of {count(len(rows), 'network')} is within one point of the base."
