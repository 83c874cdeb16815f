"""Figures of calibration. Each function returns a matplotlib Figure; see `plots.py` for what all of them take."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.drawing import COLOURS, GREY, bars, curve, dress, look
from fipray.analysis.intervals import spread, wilson
from fipray.analysis.pareto import check_numbers
from fipray.analysis.results import Results, in_order
from fipray.analysis.sheet import Style, sheet
from fipray.analysis.shown import Names, Seeds, Shown, SomeResults, band_note, chosen, counted
from fipray.analysis.summary_table import KINDS
from fipray.border import checked
from fipray.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COVERAGES = {"selective_accuracy_80": 0.8, "selective_accuracy_90": 0.9, "clean_accuracy": 1.0}
_ERRORS = {
    "expected_calibration_error": "expected calibration error, %",
    "nll": "negative log-likelihood, nat",
    "brier": "Brier score",
}
_UNIT = {"expected_calibration_error": 100}


@checked
def plot_calibration(
    results: SomeResults,
    *,
    names: Names = None,
    seeds: Seeds = "interval",
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Calibration error, likelihood, Brier score and selective accuracy of all networks, from the table `measures`.

    Selective accuracy is that on the most confident 80, 90 and 100 % of the examples, with Wilson's 95 % intervals. The
    table holds no bins and no confidences, so there is no reliability diagram of it: see `reliability_diagram`.
    Networks that differ in their seed alone are one row: their mean, with the interval of the mean, see `plot_points`.
    A single network's errors and likelihood have no interval, as the table does not hold their spread over examples.

    Args:
        results: results of a study, or of several: a sequence, or a mapping by label.
        names: names of networks to show, in order, or labels by name. For a sequence of several results, a sequence of
            names labels these results.
        seeds: "interval", "range" or "each", see `plot_points`.
        ax: four axes to draw on; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure: four panels with a row per network.

    Raises:
        UsageError: if no network was measured yet, and for unknown names.
    """
    measures = Shown.of(results, names, seeds).rows(_measured, "measures")
    groups = [(str(label), rows) for label, rows in measures.groupby("label", sort=False)]
    with sheet(style, ax) as page:
        labels = [counted(page.short(label), len(rows)) for label, rows in groups]
        columns = 2 if style == "paper" else 4
        row, margins = (0.24, 1.0) if style == "default" else (0.15, 0.5)
        size = (9.5 + page.width_of(labels), (row * len(groups) + margins) * (4 // columns))
        axes = page.axes(4, size, columns=columns, sharey=not page.given)
        for axis, label in zip(axes, [*_ERRORS.values(), "accuracy on the most\nconfident, %"], strict=True):
            dress(axis, xlabel=label.replace(", nat", " [nat]").replace(" ", "\n", 1) if page.is_paper else label)
        for number, (_, own) in enumerate(groups):
            for axis, measure in zip(axes, _ERRORS, strict=False):
                _dot(axis, number, own[measure].to_numpy(float) * _UNIT.get(measure, 1), seeds)
            _selective(axes[3], own, number, seeds)
        for axis in axes[:3]:
            axis.set_xlim(left=0)
        for axis in axes if page.given else axes[::columns]:
            axis.set_yticks(range(len(groups)), labels)
            axis.set_ylim(len(groups) - 0.5, -0.5)
        if measures["label"].duplicated().any():
            page.say(axes[0], [band_note(seeds)])
        handles, texts = axes[3].get_legend_handles_labels()
        page.legend(handles[:3], texts[:3])
    assert page.figure is not None
    return page.figure


def _measured(results: Results) -> pd.DataFrame:
    place = {kind: number for number, kind in enumerate(KINDS)}
    return results.measures.sort_values(
        ["kind", "name"], key=lambda c: c.map(place) if c.name == "kind" else in_order(c), kind="stable"
    )


def _dot(axis: "Axes", row: int, values: Any, seeds: str) -> None:
    low, high = spread(values[:, None], seeds) if len(values) > 1 else (np.array([np.nan]),) * 2
    if np.isfinite(low[0]):
        axis.hlines(row, max(low[0], 0.0), high[0], color=GREY, linewidth=2.2)
    axis.plot(values.mean(), row, "o", color="black", markersize=4)


def _selective(axis: "Axes", rows: pd.DataFrame, row: int, seeds: str) -> None:
    values = rows[list(_COVERAGES)].to_numpy(float)
    if len(rows) > 1:
        low, high = (np.clip(bound, 0, 1) for bound in spread(values, seeds))
    else:
        counts = [max(1, round(coverage * rows["num_examples"].iloc[0])) for coverage in _COVERAGES.values()]
        low, high = wilson(values[0], counts)
    for place, (coverage, marker) in enumerate(zip(_COVERAGES.values(), ("^", "s", "o"), strict=True)):
        # In lanes of a row, as their intervals overlap.
        height, colour = row + 0.22 * (place - 1), COLOURS[place]
        axis.hlines(height, 100 * low[place], 100 * high[place], color=colour, linewidth=1.2, alpha=0.7)
        mean = 100 * values[:, place].mean()
        axis.plot(mean, height, marker, color=colour, markersize=3.5, label=f"{100 * coverage:.0f} % of the examples")


@checked
def reliability_diagram(
    tables: Mapping[str, pd.DataFrame],
    *,
    num_bins: int = 15,
    names: Names = None,
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Reliability diagram: accuracy over confidence in bins of equal width, with Wilson's 95 % intervals.

    A marker stands at the mean confidence and the accuracy of the examples in a bin (b/num_bins, (b+1)/num_bins]; on
    the diagonal the two are equal. The expected calibration error in the legend, `sum_b |B_b|/N |accuracy(B_b) -
    confidence(B_b)|`, is that of `fipray.measures.expected_calibration_error` (Guo et al. 2017).

    Results directories hold no confidences. They are those of your own module:

        p = results.module("sparse")(inputs).softmax(1)
        table = pd.DataFrame({"confidence": p.max(1).values, "correct": p.argmax(1) == labels})

    Args:
        tables: frames by name of the network, with a row per example: `confidence` 0..1, and `correct`, 0 or 1.
        num_bins: number of bins, at least 1.
        names: networks to show, in order, or labels by name.
        ax: axes to draw on; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure.

    Raises:
        UsageError: without tables, for a table without rows, with missing columns or values out of range, and for
            unknown names.
    """
    if not tables:
        raise UsageError("there are no tables: give a mapping of names to frames with the columns confidence, correct")
    if num_bins < 1:
        raise UsageError(f"num_bins is {num_bins}: give at least 1")
    labels = chosen(names, list(tables), "tables")
    found = {label: reliability(tables[name], name, num_bins) for name, label in labels.items()}
    with sheet(style, ax) as page:
        size = {"default": 4.8, "paper": 2.8, "paper-wide": 4.2}[style]
        (axis,) = page.axes(1, (size, size))
        axis.plot([0, 100], [0, 100], color=GREY, linewidth=0.9, zorder=1)
        for number, (label, bins) in enumerate(found.items()):
            at, accuracy = 100 * bins["confidence"].to_numpy(), bins["accuracy"].to_numpy()
            low, high = wilson(accuracy, bins["num_examples"])
            bars(axis, at, 100 * low, 100 * high, look(number)["color"])
            gaps = (bins["accuracy"] - bins["confidence"]).abs()
            error = float((gaps * bins["num_examples"]).sum() / bins["num_examples"].sum())
            text = f"{page.short(label)} (ECE {100 * error:.1f} %)"
            curve(axis, at, 100 * accuracy, **look(number), linewidth=0.9, markersize=4, label=text)
        dress(axis, xlabel="confidence, %", ylabel="accuracy, %")
        axis.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
        page.legend(*axis.get_legend_handles_labels())
    assert page.figure is not None
    return page.figure


def reliability(table: pd.DataFrame, name: str, num_bins: int) -> pd.DataFrame:
    """Accuracy and mean confidence in bins of equal width, closed above.

    Args:
        table: a row per example: `confidence` 0..1, and `correct`, 0 or 1.
        name: name of the table, for messages.
        num_bins: number of bins.

    Returns:
        A row per bin that is not empty: confidence, accuracy and num_examples.

    Raises:
        UsageError: for a table without rows, with missing columns or values out of range.
    """
    if missing := {"confidence", "correct"} - {*table}:
        raise UsageError(f"the table {name!r} lacks {', '.join(sorted(missing))}: give a row per example")
    if table.empty:
        raise UsageError(f"the table {name!r} holds no examples")
    check_numbers(table, ["confidence", "correct"])
    confidence, correct = (table[column].to_numpy(float) for column in ("confidence", "correct"))
    if not (np.isfinite(confidence) & (confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise UsageError(f"the table {name!r} has confidences outside 0..1: give probabilities")
    if not np.isin(correct, (0, 1)).all():
        raise UsageError(f"the table {name!r} has values of `correct` other than 0 and 1")
    bins = np.digitize(confidence, np.arange(1, num_bins) / num_bins, right=True)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": correct, "num_examples": 1})
    return frame.groupby(bins).agg({"confidence": "mean", "accuracy": "mean", "num_examples": "sum"})
