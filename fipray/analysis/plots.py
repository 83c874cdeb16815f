"""Figures of results. Each function returns a matplotlib Figure: `.savefig(file)` writes it, nothing is shown.

matplotlib is loaded when the first figure is made. Colours are those of Okabe and Ito (2008), which colour-blind people
tell apart; where there are more paths than colours, line styles tell them apart too.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.drawing import COLOURS, GREY, dress, heat_map, new_figure, plain, present, short, width_of
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
    """Along the paths, by step: functional distance, objective, sparsity, and clean accuracy where it was measured.

    A dot marks the end of a path. The distance on the anchors is drawn too where the paths are as few as the colours.
    Raises UsageError while there are no points.
    """
    points = present(results.points, "points", results)
    on_anchors, held_out = points["functional_distance"], points["functional_distance_held_out"]
    panels = {
        "functional distance to where it began\n(Fisher-Rao: radian)": held_out.fillna(on_anchors),
        "objective, lower is better\n(in the objective's own unit)": points["objective_value"],
        "sparsity\n(fraction of weights that are zero)": points["sparsity"],
        "clean accuracy, %": points["clean_accuracy"] * 100,
    }
    panels = {label: values for label, values in panels.items() if values.notna().any()}
    paths = points.groupby("path_id", sort=False)
    columns_of_legend = -(-len(paths) // _PER_LEGEND_COLUMN)
    figure = new_figure(10 + (0.8 + width_of(points["name"])) * columns_of_legend, 7)
    axes: list[Axes] = list(figure.subplots(2, 2, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, label in zip(axes, panels, strict=False):
        dress(axis, xlabel="step", ylabel=label)
    few = len(paths) <= len(COLOURS)
    title = "thick: on held-out inputs; thin: on anchors" if few else "on held-out inputs"
    axes[0].set_title(title, fontsize="small", color=GREY)
    for (_, path), (line, colour) in zip(paths, cycle(product(_LINES, COLOURS)), strict=False):
        style: dict[str, Any] = {"color": colour, "linestyle": line}
        if few:
            axes[0].plot(path["step"], on_anchors.loc[path.index], **style, linewidth=0.7, alpha=0.7)
        style |= {"linewidth": 1.6 if few else 1.1, "label": short(path["name"].iloc[0])}
        style |= {"marker": "o", "markersize": 4, "markevery": [-1]}
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
    """Clean accuracy and accuracy under each attack: a line a network, a panel a threat model, the worst in figures.

    A line leads from the accuracy under the worst attack to that on the same examples without attack. Raises UsageError
    while no network was attacked.
    """
    attacks = present(attacked(results), "attacked networks", results)
    networks = summary(results).merge(attacks[NETWORK].drop_duplicates(), on=NETWORK)
    place = {network: row for row, network in enumerate(networks[NETWORK].itertuples(index=False, name=None))}
    height = attacks[NETWORK].apply(tuple, axis=1).map(place)
    clean, robust = attacks["clean_accuracy"] * 100, attacks["robust_accuracy"] * 100
    names = [name for name in attacks["attack"].unique() if name != WORST]
    panels = list(attacks.groupby("threat", sort=False))
    figure = new_figure(0.5 + width_of(networks["name"]) + 4.5 * len(panels), 1.6 + 0.28 * len(place))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (_, rows) in zip(axes, panels, strict=True):
        few, many = rows["num_examples"].min(), rows["num_examples"].max()
        examples = f"{many} examples" if few == many else f"{few} to {many} examples"
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
        # From -12: there the figure of a network stands that withstands nothing.
        axis.set(xlim=(-12, 103), ylim=(len(place) - 0.5, -0.5), xticks=range(0, 101, 20))
    axes[0].set_yticks(range(len(place)), networks["name"].map(short))
    columns = min(len(names) + 2, 3 * len(panels))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=columns, frameon=False)
    return figure


@checked
def plot_sparsity(results: Results) -> "Figure":
    """Accuracy over the sparsity of the variants that paths passed through: clean, and under the worst of all attacks
    where they were judged; a colour a path, and what the base has at sparsity 0.

    The axis of sparsity is stretched towards 1. Raises UsageError while there are no variants.
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
            there = rows[rows[column].notna()]
            if len(there):
                x, y = _stretched([0.0, *there["sparsity"]]), np.array([at_base, *there[column]])
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
    return -np.log10(np.maximum(1 - np.array(sparsities), 1e-4))


@checked
def plot_transfer(results: Results) -> "Figure":
    """Accuracy, in %, of each target (column) on inputs made on each maker (row): a heat map a threat model and attack.

    Raises UsageError while there is no transfer.
    """
    rows = present(results.transfer, "transfer accuracies", results)
    there = {*rows["source"], *rows["target"]}
    panels = {
        f"{attack}, {norm}, epsilon {epsilon:g}": some
        for (attack, norm, epsilon), some in rows.groupby(["attack", "norm", "epsilon"])
    }
    return transfer_heat_maps(panels, names=[name for name in summary(results)["name"] if name in there])


@checked
def transfer_heat_maps(tables: Mapping[str, pd.DataFrame], *, names: Sequence[str] | None = None) -> "Figure":
    """Tables of transfer side by side, each under its title, on one scale of colours from 0 to 100 %.

    A table has the columns maker, target and accuracy (0..1), as `results.transfer`; of several rows a pair, the one on
    the most examples is shown, or the last. A row of the map is a maker, a column a target; above it stand the mean
    accuracy on inputs that were made on the network itself, and that on inputs made on the others. `names`: those of
    the networks, in order, for all maps; without, each map has those of its own table, as they come.

    Raises UsageError for no tables, for one without rows or a column, and for one that mixes attacks or threat models.
    """
    if not tables:
        raise UsageError("there are no tables of transfer: give a mapping of titles to frames")
    maps = {title: _percentages(title, table, names) for title, table in tables.items()}
    labels = [*(name for table in maps.values() for name in (*table.index, *table.columns))]
    most_rows, margin = max(map(len, maps.values())), width_of(labels)
    widths = [max(2.9, 0.36 * len(table.columns)) for table in maps.values()]
    num_margins = 1 if names else len(maps)
    width = sum(widths) + margin * num_margins + 0.3 * len(maps) + 1.3
    figure = new_figure(width, max(2.5, 0.36 * most_rows) + 1.1 * (1 + margin))
    axes = figure.subplots(1, len(maps), sharey=bool(names), squeeze=False, width_ratios=widths)[0]
    for axis, (title, table) in zip(axes, maps.items(), strict=True):
        image = heat_map(axis, table)
        axis.set_title(f"{plain(title)}\n{_own_and_others(table)}", fontsize="medium")
        axis.set_xlabel("target")
    axes[0].set_ylabel("maker of the inputs")
    figure.colorbar(image, ax=axes, label="accuracy of the target, %", shrink=0.8, aspect=30)
    return figure


def _percentages(title: str, table: pd.DataFrame, names: Sequence[str] | None) -> pd.DataFrame:
    """Accuracies in %, a row a maker and a column a target."""
    if missing := {"source", "target", "accuracy"} - {*table}:
        raise UsageError(f"the table {title!r} lacks {', '.join(sorted(missing))}: give rows as in results.transfer")
    threats = [column for column in ("attack", "norm", "epsilon") if column in table]
    if table.empty or (threats and len(table[threats].drop_duplicates()) > 1):
        raise UsageError(
            f"the table {title!r} holds {'nothing' if table.empty else 'several attacks or threat models'}: "
            "give the rows of one attack and threat model a table"
        )
    table = table.reset_index(drop=True)
    if "num_examples" in table:
        table = table.sort_values("num_examples", kind="stable")
    pairs = table.drop_duplicates(["source", "target"], keep="last").sort_index()
    sources, targets = (names or pairs[column].unique() for column in ("source", "target"))
    return (
        pairs.pivot(index="source", columns="target", values="accuracy").reindex(index=sources, columns=targets) * 100
    )


def _own_and_others(table: pd.DataFrame) -> str:
    """The mean on the diagonal and off it, of a table of percentages."""
    own = np.equal.outer(table.index.to_numpy(), table.columns.to_numpy())
    values = table.to_numpy()
    parts = {"own inputs": values[own], "others'": values[~own]}
    return ", ".join(f"{name} {np.nanmean(some):.1f} %" for name, some in parts.items() if np.isfinite(some).any())


@checked
def front(
    frame: pd.DataFrame,
    *,
    method: str = "method",
    clean: str = "clean_accuracy",
    robust: str = "robust_accuracy",
    seconds: str | None = None,
) -> "Figure":
    """Clean accuracy (x) against robust accuracy (y), in %: a colour and marker a method, its Pareto front a step line.

    A row is a network; `method`, `clean`, `robust` (0..1) and `seconds` name columns. Filled: no other network of the
    method is better in both; hollow: one is. With `seconds` a marker's area grows with them, by the same rule for all.
    The legend shows the least and the most. What lies below and left of a line, its method reaches.

    Raises UsageError for no rows or missing columns.
    """
    wanted = [method, clean, robust, *([seconds] if seconds else [])]
    there = ", ".join(map(str, frame))
    if frame.empty or not {*wanted} <= {*frame}:
        raise UsageError(f"the front needs rows with the columns {', '.join(wanted)}; there are: {there}")
    check_numbers(frame, wanted[1:])
    frame = frame[frame[[clean, robust]].notna().all(axis=1)].reset_index(drop=True)
    if frame.empty:
        raise UsageError(f"the front needs a row with numbers in both {clean!r} and {robust!r}, and there is none")
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
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    for line in lines:  # whoever gets that far gets less far too
        x, y = line.get_data()
        line.set_data([left, *x, x[-1]], [y[0], *y, bottom])
    axis.set(xlim=(left, right), ylim=(bottom, top))
    if seconds:
        few, many = frame[seconds].min(), frame[seconds].max()
        for value in (few, many):
            axis.scatter([], [], s=_area(value, many), c=GREY, label=f"{value:.3g} s")
    figure.legend(*axis.get_legend_handles_labels(), title=plain(method), loc="outside right upper", frameon=False)
    return figure


def _area(seconds: Any, most: float) -> Any:
    """A marker's area, in square points: a visible least, and in proportion to seconds above it."""
    return 20 + 180 * seconds / most
