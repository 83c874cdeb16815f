"""Section on calibration, selective accuracy, out-of-distribution detection, and diversity of members."""

from collections.abc import Sequence

import pandas as pd

from fipray.analysis.report.accuracies import chosen, label
from fipray.analysis.report.content import Chart, Kind, Limits, Section, Table, cut, rounded
from fipray.analysis.report.side import Side, columns_of, named, together
from fipray.analysis.report.wording import number, percent

_LOWER = {"expected_calibration_error": "expected calibration error", "nll": "negative log-likelihood, nat",
          "brier": "Brier score", "aurc": "area under the risk-coverage curve"}  # fmt: skip
_WIDE = 30  # ratio of the largest to the smallest value from which a logarithmic scale is used
_HIGHER = {"ood_auroc": "OOD detection, AUROC"}
_COLUMNS = (
    "name", "kind", "num_members", "num_examples", "clean_accuracy", "nll", "expected_calibration_error", "brier",
    "selective_accuracy_80", "selective_accuracy_90", "aurc", "ood_auroc", "coherence", "disagreement", "q_statistic",
    "kappa",
)  # fmt: skip
_PERCENT: dict[str, Kind] = dict.fromkeys(
    ("clean_accuracy", "selective_accuracy_80", "selective_accuracy_90", "disagreement"), "percent"
)


def calibration(sides: Sequence[Side], limits: Limits) -> Section | None:
    """Dots of the measures of calibration for each network, and a table of all measures.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if nothing was measured.
    """
    rows = together(sides, lambda side: side.results.measures)
    if rows.empty:
        return None
    rows = rows.reset_index(drop=True)
    charts = [
        _chart(sides, rows[rows[name].notna()], name, title, limits)
        for name, title in {**_LOWER, **_HIGHER}.items()
        if rows[name].notna().any()
    ]
    sentences = []
    diverse = rows[rows["disagreement"].notna()]
    if len(diverse):
        most = diverse.loc[diverse["disagreement"].idxmax()]
        of = f", the most of {len(diverse)} ensembles" if len(diverse) > 1 else ""
        differently = f"predict differently on {percent(most['disagreement'])} of the examples"
        sentences.append(f"Members of {named(sides, most)} {differently}{of}.")
    table = Table("measures", "Calibration and diversity", columns_of(sides, rows, _COLUMNS, **_PERCENT))
    return Section("calibration", "Calibration and diversity", sentences, charts, [table])


def _chart(sides: Sequence[Side], rows: pd.DataFrame, name: str, title: str, limits: Limits) -> Chart:
    lower = name in _LOWER  # which is better
    known = rows.assign(better=-rows[name] if lower else rows[name]).reset_index(drop=True)
    shown = chosen(known, limits, "better")
    best = known.loc[known["better"].idxmax()]
    base = known[(known["kind"] == "base") & (known["results"] == best["results"])]
    against = f"; its base network has {number(base[name].iloc[0])}" if len(base) and best["kind"] != "base" else ""
    return Chart(
        "dots",
        f"{title[0].upper()}{title[1:]}, {'lower' if lower else 'higher'} is better",
        f"Best: {named(sides, best)} with {number(best[name])}{against}."
        + cut(len(shown), len(known), "network", ": the base, ensembles and the best others"),
        {
            "rows": label(sides, shown),
            "small": True,
            "x": title,
            "percent": False,
            "log": bool(shown[name].min() > 0 and shown[name].max() / shown[name].min() > _WIDE),
            "series": [{"name": title, "thin": False, "hollow": False}],
            "row": list(range(len(shown))),
            "of": [0] * len(shown),
            "value": rounded(shown[name]),
            "low": [None] * len(shown),
            "high": [None] * len(shown),
        },
    )
