"""Figures of results. Each function returns a matplotlib Figure; `.savefig(file)` writes it, and none is shown.

matplotlib is imported when the first figure is made. Colours are those of Okabe and Ito (2008), which are distinct for
colour-blind readers; line styles distinguish paths beyond the number of colours.
"""

from collections.abc import Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.drawing import COLOURS, GREY, dress, new_figure, plain, present, short, width_of
from fipray.analysis.pareto import check_numbers, pareto
from fipray.analysis.results import Results
from fipray.analysis.table import NETWORK, WORST, attacked, summary
from fipray.analysis.variants import judged_variants
from fipray.border import checked
from fipray.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("-", "--", ":", "-.")
_MARKERS = ("^", "s", "v", "P", "X")
_FRONT_MARKERS = ("o", "s", "^", "D", "v", "p", "h")
_SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_PER_LEGEND_COLUMN = 28


@checked
def plot_points(results: Results) -> "Figure":
    """Functional distance, objective, sparsity and clean accuracy of the points of each path, by step.

    A dot marks the end of a path. The distance on anchor inputs is drawn, too, if there are no more paths than colours.
    Quantities that were not measured have no panel.

    Args:
        results: results of a study.

    Returns:
        The figure: a panel per quantity, a line per path.

    Raises:
        UsageError: if there are no points yet.
    """
    points = present(results.points, "points", results)
    on_anchors, held_out = points["functional_distance"], points["functional_distance_held_out"]
    panels = {
        "functional distance to the path's start\n(Fisher-Rao: radian)": held_out.fillna(on_anchors),
        "objective, lower is better\n(in the objective's own unit)": points["objective_value"],
        "sparsity\n(fraction of weights that are zero)": points["sparsity"],
        "clean accuracy, %": points["clean_accuracy"] * 100,
    }
    panels = {label: values for label, values in panels.items() if values.notna().any()}
    paths = points.groupby("path_id", sort=False)
    # Rounded up: the negative of a floored quotient is a ceiling without floats.
    columns_of_legend = -(-len(paths) // _PER_LEGEND_COLUMN)
    figure = new_figure(10 + (0.8 + width_of(points["name"])) * columns_of_legend, 7)
    axes: list[Axes] = list(figure.subplots(2, 2, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, label in zip(axes, panels, strict=False):
        dress(axis, xlabel="step", ylabel=label)
    has_both = len(paths) <= len(COLOURS)
    title = "thick: on held-out inputs; thin: on anchors" if has_both else "on held-out inputs"
    axes[0].set_title(title, fontsize="small", color=GREY)
    for (_, path), (line, colour) in zip(paths, cycle(product(_LINES, COLOURS)), strict=False):
        style: dict[str, Any] = {"color": colour, "linestyle": line}
        if has_both:
            axes[0].plot(path["step"], on_anchors.loc[path.index], **style, linewidth=0.7, alpha=0.7)
        style |= {"linewidth": 1.6 if has_both else 1.1, "label": short(path["name"].iloc[0])}
        style |= {"marker": "o", "markersize": 4, "markevery": [-1]}  # the end alone
        for axis, values in zip(axes, panels.values(), strict=False):
            axis.plot(path["step"], values.loc[path.index], **style)
    figure.legend(
        *axes[1].get_legend_handles_labels(),
        title="path",
        loc="outside right upper",
        ncols=columns_of_legend,
        fontsize="small",
        handlelength=3,
        frameon=False,
    )
    return figure


@checked
def plot_robustness(results: Results) -> "Figure":
    """Clean accuracy and accuracy under each attack of all networks.

    A line leads from the accuracy under the worst attack, which is also given as a number, to that on the same examples
    without attack.

    Args:
        results: results of a study.

    Returns:
        The figure: a row per network, a panel per threat model.

    Raises:
        UsageError: if no network was attacked yet.
    """
    attacks = present(attacked(results), "attacked networks", results)
    # An inner merge keeps the order of its left side, so networks stand as in the summary.
    networks = summary(results).merge(attacks[NETWORK].drop_duplicates(), on=NETWORK)
    place = {network: row for row, network in enumerate(networks[NETWORK].itertuples(index=False, name=None))}
    height = attacks[NETWORK].apply(tuple, axis=1).map(place)
    clean, robust = attacks["clean_accuracy"] * 100, attacks["robust_accuracy"] * 100
    names = [name for name in attacks["attack"].unique() if name != WORST]
    panels = list(attacks.groupby("threat", sort=False))
    figure = new_figure(0.5 + width_of(networks["name"]) + 4.5 * len(panels), 1.6 + 0.28 * len(place))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (_, rows) in zip(axes, panels, strict=True):
        fewest, most = rows["num_examples"].min(), rows["num_examples"].max()
        examples = f"{most} examples" if fewest == most else f"{fewest} to {most} examples"
        dress(
            axis,
            xlabel="accuracy, %",
            title=f"{plain(rows['norm'].iloc[0])}, epsilon {rows['epsilon'].iloc[0]:g}\n{examples}",
        )
        worst = rows.index[rows["attack"] == WORST]
        axis.hlines(height[worst], robust[worst], clean[worst], color=GREY, linewidth=1)
        axis.plot(clean[worst], height[worst], "o", mfc="white", mec="black", label="no attack")
        for name, marker, colour in zip(names, cycle(_MARKERS), cycle(COLOURS[:-1]), strict=False):
            some = rows.index[rows["attack"] == name]
            axis.plot(robust[some], height[some], marker, color=colour, markersize=5, alpha=0.8, label=short(name))
        axis.plot(robust[worst], height[worst], "D", color="black", markersize=5, label=WORST)
        for index in worst:
            place_of_text = {"xytext": (-7, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            axis.annotate(f"{robust[index]:.1f}", (robust[index], height[index]), fontsize="small", **place_of_text)
        # From -12: room for the number left of the marker of a network with a robust accuracy of 0.
        axis.set(xlim=(-12, 103), ylim=(len(place) - 0.5, -0.5), xticks=range(0, 101, 20))
    axes[0].set_yticks(range(len(place)), networks["name"].map(short))
    columns = min(len(names) + 2, 3 * len(panels))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=columns, frameon=False)
    return figure


@checked
def plot_sparsity(results: Results) -> "Figure":
    """Accuracy of the variants of each path over their sparsity: clean, and under the worst of all attacks.

    Sparsity s is drawn at -log10(1 - s), so that the range close to 1 is readable. The base stands at sparsity 0.

    Args:
        results: results of a study.

    Returns:
        The figure: a colour per path.

    Raises:
        UsageError: if there are no variants yet.
    """
    variants = present(judged_variants(results), "sparse variants", results)
    base = present(summary(results).query("kind == 'base'"), "base", results).iloc[0]
    worst = [column for column in base.index if column.startswith(f"robust_accuracy {WORST}")]
    figure = new_figure(7.5 + width_of(variants["name"]), 4.5)
    axis = figure.subplots()
    for (name, rows), colour in zip(variants.groupby("name", sort=False), cycle(COLOURS)):
        for column, line, marker, what, at_base in (
            ("clean_accuracy", "-", "o", "clean", base["clean_accuracy"]),
            ("robust_accuracy", "--", "D", "under attack", base[worst[0]] if worst else np.nan),
        ):
            known = rows[rows[column].notna()]
            if len(known):
                x, y = _stretched([0.0, *known["sparsity"]]), np.array([at_base, *known[column]])
                label = f"{short(name)}, {what}"
                axis.plot(x, 100 * y, color=colour, linestyle=line, marker=marker, markersize=4, label=label)
    ticks = [tick for tick in _SPARSITIES if tick <= variants["sparsity"].max() + 1e-9]
    axis.set_xticks(_stretched(ticks), [f"{tick:g}" for tick in ticks])
    threat = variants.dropna(subset=["epsilon"]).head(1)
    title = "" if threat.empty else f"under attack: {threat['norm'].iloc[0]}, epsilon {threat['epsilon'].iloc[0]:g}"
    dress(axis, xlabel="sparsity (fraction of weights that are zero)", ylabel="accuracy, %", title=plain(title))
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _stretched(sparsities: Sequence[float]) -> Any:
    # A sparsity of 1 would lie at infinity.
    return -np.log10(np.maximum(1 - np.array(sparsities), 1e-4))


@checked
def front(
    frame: pd.DataFrame,
    *,
    method: str = "method",
    clean: str = "clean_accuracy",
    robust: str = "robust_accuracy",
    seconds: str | None = None,
) -> "Figure":
    """Robust accuracy (y) over clean accuracy (x) of networks, with the Pareto front of each method as a step line.

    Markers on the front of their method are filled, the others hollow. A method reaches everything below and left of
    its line.

    Args:
        frame: one row per network.
        method: column with the method, which gets a colour and a marker.
        clean: column with clean accuracies, 0..1.
        robust: column with robust accuracies, 0..1.
        seconds: column with times, which set the area of the markers; None for equal markers.

    Returns:
        The figure, in percent.

    Raises:
        UsageError: without rows, and for columns that are missing or not numeric.
    """
    wanted = [method, clean, robust, *([seconds] if seconds else [])]
    known = ", ".join(map(str, frame))
    if frame.empty or not {*wanted} <= {*frame}:
        raise UsageError(f"the front needs rows with the columns {', '.join(wanted)}; the columns are: {known}")
    check_numbers(frame, wanted[1:])
    frame = frame[frame[[clean, robust]].notna().all(axis=1)].reset_index(drop=True)
    if frame.empty:
        raise UsageError(f"the front needs a row with numbers in both {clean!r} and {robust!r}, and no row has them")
    figure = new_figure(7.5, 5.2)
    axis = figure.subplots()
    dress(axis, xlabel="clean accuracy, %", ylabel="robust accuracy, %")
    lines: list[Any] = []
    for (name, rows), colour, marker in zip(
        frame.groupby(method, sort=False), cycle(COLOURS), cycle(_FRONT_MARKERS), strict=False
    ):
        best = pareto(rows, (clean, robust)).sort_values([clean, robust], ascending=[True, False])
        lines += axis.plot(best[clean] * 100, best[robust] * 100, color=colour, drawstyle="steps-pre", linewidth=1.6)
        for some, face, edge in ((rows.drop(best.index), "white", colour), (best, colour, "white")):
            area = _area(some[seconds], frame[seconds].max()) if seconds else 55
            places = (some[clean] * 100, some[robust] * 100)
            axis.scatter(*places, s=area, c=face, marker=marker, edgecolors=edge, linewidths=0.9, zorder=3)
        axis.plot([], [], color=colour, marker=marker, label=short(str(name)))
    # Read before the lines are extended, since drawing to the limits would move them outward again.
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    # To the edges of the axes, which are known only now: the first accuracy is reached for all lower ones, too.
    for line in lines:
        x, y = line.get_data()
        line.set_data([left, *x, x[-1]], [y[0], *y, bottom])
    axis.set(xlim=(left, right), ylim=(bottom, top))
    if seconds:
        least, most = frame[seconds].min(), frame[seconds].max()
        for value in (least, most):
            axis.scatter([], [], s=_area(value, most), c=GREY, label=f"{value:.3g} s")
    figure.legend(*axis.get_legend_handles_labels(), title=plain(method), loc="outside right upper", frameon=False)
    return figure


def _area(seconds: Any, most: float) -> Any:
    """Area of a marker in square points: linear in the seconds, with a visible minimum."""
    return 20 + 180 * seconds / most
