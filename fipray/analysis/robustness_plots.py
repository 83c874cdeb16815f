"""Figures of robust accuracy. Each function returns a matplotlib Figure; see `plots.py` for what all of them take."""

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.drawing import COLOURS, GREY, dress, look, plain
from fipray.analysis.intervals import spread, wilson
from fipray.analysis.pareto import check_numbers, pareto
from fipray.analysis.results import Results
from fipray.analysis.sheet import Style, sheet
from fipray.analysis.shown import Names, Seeds, Shown, SomeResults, band_note, chosen, counted
from fipray.analysis.summary_table import WORST
from fipray.analysis.table import NETWORK, attacked, summary
from fipray.border import checked
from fipray.errors import UsageError
from fipray.printable import epsilon_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("^", "s", "v", "P", "X")
_FRONT_MARKERS = ("o", "s", "^", "D", "v", "p", "h")
_LANE = 0.26  # of a row: the worst attack is one of the others, and would lie upon them
_LEAST_AREA, _MOST_AREA = 20, 200  # square points


@checked
def plot_robustness(
    results: SomeResults,
    *,
    names: Names = None,
    seeds: Seeds = "interval",
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Clean accuracy and accuracy under each attack of all networks, with 95 % intervals.

    A line leads from the accuracy under the worst attack, which is also given as a number, to that on the same examples
    without attack. Bars are Wilson's intervals. Networks that differ in their seed alone are one row: their mean, with
    the interval of the mean, see `plot_points`.

    Args:
        results: results of a study, or of several: a sequence, or a mapping by label.
        names: names of networks to show, in order, or labels by name. For a sequence of several results, a sequence of
            names labels these results.
        seeds: "interval", "range" or "each", see `plot_points`.
        ax: axes to draw on, one per threat model; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure: a row per network, a panel per threat model.

    Raises:
        UsageError: if no network was attacked yet, and for unknown names.
    """
    attacks = Shown.of(results, names, seeds).rows(_in_order, "attacked networks")
    accuracies = _accuracies(attacks, seeds)
    labels = list(dict.fromkeys(attacks["label"]))
    place = {label: row for row, label in enumerate(labels)}
    others = [name for name in accuracies["attack"].unique() if name != WORST]
    panels = list(accuracies.groupby("threat", sort=False))
    most_runs = accuracies["num_runs"].max()
    with sheet(style, ax) as page:
        row, margins = (0.28, 1.3) if style == "default" else (0.16, 0.75)
        size = (
            0.5 + page.width_of(labels) + 4.5 * len(panels),
            margins + row * len(labels),
        )
        axes = page.axes(len(panels), size, sharey=not page.given)
        for axis, (_, rows) in zip(axes, panels, strict=True):
            _panel(axis, rows.assign(height=rows["label"].map(place)), others, page.small, page.short)
            # From -12: room for the number left of the marker of a network with a robust accuracy of 0.
            room = 12 if style == "default" else 20
            axis.set(xlim=(-room, 103), ylim=(len(place) - 0.5, -0.5), xticks=range(0, 101, 20))
        runs = accuracies.groupby("label")["num_runs"].max()
        axes[0].set_yticks(range(len(place)), [counted(page.short(label), runs[label]) for label in labels])
        if most_runs > 1:
            page.notes = (band_note(seeds),)
        page.legend(*axes[0].get_legend_handles_labels())
    assert page.figure is not None
    return page.figure


def _in_order(results: Results) -> pd.DataFrame:
    """Attacked networks in the order of the summary."""
    attacks = attacked(results)
    order = {network: row for row, network in enumerate(summary(results)[NETWORK].itertuples(index=False, name=None))}
    place = [order.get(network, len(order)) for network in attacks[NETWORK].itertuples(index=False, name=None)]
    return attacks.assign(place=place).sort_values("place", kind="stable")


def _accuracies(attacks: pd.DataFrame, seeds: str) -> pd.DataFrame:
    """Accuracies with their intervals: one row per threat model, attack and label."""
    found = []
    # Sorted by the attacks' order instead of the networks': the worst comes last.
    attacks = attacks.assign(is_worst=attacks["attack"] == WORST).sort_values(
        ["norm", "epsilon", "is_worst", "attack"], kind="stable"
    )
    for (threat, attack, label), rows in attacks.groupby(["threat", "attack", "label"], sort=False):
        row = {"threat": threat, "attack": attack, "label": label, "num_runs": len(rows)}
        row |= rows.iloc[0][["norm", "epsilon"]].to_dict()
        row |= {"fewest": rows["num_examples"].min(), "most": rows["num_examples"].max()}
        for which in ("clean", "robust"):
            values = rows[f"{which}_accuracy"].to_numpy(float)
            low, high = wilson(values, rows["num_examples"]) if len(rows) == 1 else spread(values[:, None], seeds)
            row |= {which: values.mean(), f"{which}_low": max(low[0], 0.0), f"{which}_high": min(high[0], 1.0)}
        found.append(row)
    table = pd.DataFrame(found)
    numbers = [f"{which}{bound}" for which in ("clean", "robust") for bound in ("", "_low", "_high")]
    return table.assign(**{name: 100 * table[name] for name in numbers})


def _panel(axis: "Axes", rows: pd.DataFrame, others: list[str], small: float, short: Any) -> None:
    fewest, most = rows["fewest"].min(), rows["most"].max()
    examples = f"{most} examples" if fewest == most else f"{fewest} to {most} examples"
    title = f"{plain(rows['norm'].iloc[0])}, epsilon {epsilon_text(rows['epsilon'].iloc[0])}\n{examples}"
    dress(axis, xlabel="accuracy, %", title=title)
    worst = rows[rows["attack"] == WORST]
    axis.hlines(worst["height"], worst["robust"], worst["clean"], color=GREY, linewidth=0.8, zorder=1)
    _interval(axis, worst, "clean", GREY)
    axis.plot(worst["clean"], worst["height"], "o", mfc="white", mec="black", label="no attack")
    for name, marker, colour in zip(others, cycle(_MARKERS), cycle(COLOURS[:-1]), strict=False):
        some = rows[rows["attack"] == name]
        axis.plot(
            some["robust"], some["height"] - _LANE, marker, color=colour, markersize=5, alpha=0.8, label=short(name)
        )
    _interval(axis, worst, "robust", "black")
    axis.plot(worst["robust"], worst["height"], "D", color="black", markersize=4, label=WORST)
    for row in worst.itertuples():
        # Left of the interval, which is at least as long as the marker is wide.
        left = row.robust_low if np.isfinite(row.robust_low) else row.robust
        place: dict[str, Any] = {"xytext": (-5, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
        axis.annotate(f"{row.robust:.1f}", (left, row.height), fontsize=small, **place)


def _interval(axis: "Axes", rows: pd.DataFrame, which: str, colour: str) -> None:
    low, high = rows[f"{which}_low"], rows[f"{which}_high"]
    axis.hlines(rows["height"], low, high, color=colour, linewidth=2.2, alpha=0.75, zorder=1.5)


@checked
def front(
    frame: pd.DataFrame,
    *,
    method: str = "method",
    clean: str = "clean_accuracy",
    robust: str = "robust_accuracy",
    seconds: str | None = None,
    names: Names = None,
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Robust accuracy (y) over clean accuracy (x) of networks, with the Pareto front of each method as a step line.

    Markers on the front of their method are filled, the others hollow. A method reaches everything below and left of
    its line. With a column `num_examples`, Wilson's 95 % intervals of both accuracies are drawn.

    Args:
        frame: one row per network.
        method: column with the method, which gets a colour and a marker.
        clean: column with clean accuracies, 0..1.
        robust: column with robust accuracies, 0..1.
        seconds: column with times, which set the area of the markers; None for equal markers.
        names: methods to show, in order, or labels by method.
        ax: axes to draw on; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure, in percent.

    Raises:
        UsageError: without rows, for columns that are missing or not numeric, and for unknown methods.
    """
    wanted = [method, clean, robust, *([seconds] if seconds else [])]
    known = ", ".join(map(str, frame))
    if frame.empty or not {*wanted} <= {*frame}:
        raise UsageError(f"the front needs rows with the columns {', '.join(wanted)}; the columns are: {known}")
    check_numbers(frame, wanted[1:])
    frame = frame[frame[[clean, robust]].notna().all(axis=1)].reset_index(drop=True)
    if frame.empty:
        raise UsageError(f"the front needs a row with numbers in both {clean!r} and {robust!r}, and no row has them")
    # The methods as texts, since a column of numbers may name them, too.
    frame = frame.assign(**{method: frame[method].map(str)})
    methods = chosen(names, list(dict.fromkeys(frame[method])), "methods")
    frame = frame[frame[method].isin(methods)]
    groups = [(label, frame[frame[method] == name]) for name, label in methods.items()]
    with sheet(style, ax) as page:
        (axis,) = page.axes(1, (6.0, {"default": 5.2, "paper": 2.3, "paper-wide": 3.5}[style]))
        dress(axis, xlabel="clean accuracy, %", ylabel="robust accuracy, %")
        usual = 55 if style == "default" else 26
        lines: list[Any] = []
        for number, (label, rows) in enumerate(groups):
            colour, line = look(number)["color"], look(number)["linestyle"]
            marker = _FRONT_MARKERS[number % len(_FRONT_MARKERS)]
            best = pareto(rows, (clean, robust)).sort_values([clean, robust], ascending=[True, False])
            stair = {"drawstyle": "steps-pre", "linewidth": 1.6 * page.scale, "linestyle": line}
            lines += axis.plot(best[clean] * 100, best[robust] * 100, color=colour, **stair)
            for some, face, edge in ((rows.drop(best.index), "white", colour), (best, colour, "white")):
                area = _area(some[seconds], frame[seconds].max()) * page.scale if seconds else usual
                places = (some[clean] * 100, some[robust] * 100)
                axis.scatter(*places, s=area, c=face, marker=marker, edgecolors=edge, linewidths=0.9, zorder=3)
            _crosses(axis, rows, clean, robust, colour)
            axis.plot([], [], color=colour, marker=marker, linestyle=line, label=page.short(label))
        # Read before the lines are extended, since drawing to the limits would move them outward again.
        (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        # To the edges of the axes, which are known only now: the first accuracy is reached for all lower ones, too.
        for line in lines:
            x, y = line.get_data()
            line.set_data([left, *x, x[-1]], [y[0], *y, bottom])
        axis.set(xlim=(left, right), ylim=(bottom, top))
        if seconds:
            least, most = frame[seconds].min(), frame[seconds].max()
            for value in dict.fromkeys((least, most)):
                axis.scatter([], [], s=_area(value, most) * page.scale, c=GREY, label=f"{value:.3g} s")
        page.legend(*axis.get_legend_handles_labels(), title=plain(method))
    assert page.figure is not None
    return page.figure


def _crosses(axis: "Axes", rows: pd.DataFrame, clean: str, robust: str, colour: str) -> None:
    if "num_examples" not in rows or not pd.api.types.is_numeric_dtype(rows["num_examples"].dtype):
        return
    style: dict[str, Any] = {"color": colour, "linewidth": 0.8, "alpha": 0.5, "zorder": 1.5}
    for low, high, at, lines in (
        (*wilson(rows[clean], rows["num_examples"]), rows[robust], axis.hlines),
        (*wilson(rows[robust], rows["num_examples"]), rows[clean], axis.vlines),
    ):
        known = np.isfinite(low)
        lines(100 * at[known], 100 * low[known], 100 * high[known], **style)


def _area(seconds: Any, most: float) -> Any:
    """Area of a marker in square points: linear in the seconds, with a visible minimum, which it is if all are 0."""
    return _LEAST_AREA + (_MOST_AREA - _LEAST_AREA) * (seconds / most if most > 0 else 0 * seconds)
