"""Figures of results. Each function returns a matplotlib Figure: `.savefig(file)` writes it, nothing is shown.

matplotlib is loaded when the first figure is made. Colours are those of Okabe and Ito (2008), which colour-blind people
tell apart; where there are more paths than colours, line styles tell them apart too.
"""

from collections.abc import Iterator
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.results import Results
from fipray.analysis.table import NETWORK, WORST, attacked, summary
from fipray.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("^", "s", "v", "P", "X")
_GREY = "#909090"
_MOST_IN_LEGEND = 24


def plot_points(results: Results) -> "Figure":
    """Along the paths, by step: functional distance, objective, sparsity, and clean accuracy where it was measured.

    A dot marks the end of a path. Raises UsageError while there are no points.
    """
    points = _there(results.points, "points", results)
    on_anchors = points["functional_distance"]
    panels = {
        "functional distance to the base\n(Fisher-Rao: radian)": points["functional_distance_held_out"].fillna(
            on_anchors
        ),
        "objective, lower is better\n(in the objective's own unit)": points["objective_value"],
        "sparsity\n(fraction of weights that are zero)": points["sparsity"],
        "clean accuracy, %": points["clean_accuracy"] * 100,
    }
    figure = _figure(12, 7)
    axes: list[Axes] = list(figure.subplots(2, 2, sharex=True).flat)
    for axis, label in zip(axes, panels, strict=True):
        _dress(axis, xlabel="step", ylabel=label)
    axes[0].set_title("thick: held-out inputs; thin: anchors", fontsize="medium", color=_GREY)
    styles: Iterator[dict[str, Any]] = cycle(
        {"color": colour, "linestyle": line} for line, colour in product(_LINES, _COLOURS)
    )
    for (_, path), style in zip(points.groupby("path_id", sort=False), styles, strict=False):
        axes[0].plot(path["step"], on_anchors.loc[path.index], **style, linewidth=0.8, alpha=0.6)
        for axis, values in zip(axes, panels.values(), strict=True):
            axis.plot(
                path["step"], values.loc[path.index], **style, marker="o", markevery=[-1], label=path["name"].iloc[0]
            )
    if points["clean_accuracy"].isna().all():
        axes.pop().remove()
    handles, labels = axes[-1].get_legend_handles_labels()
    more = f"\n... and {len(labels) - _MOST_IN_LEGEND} more" if len(labels) > _MOST_IN_LEGEND else ""
    figure.legend(
        handles[:_MOST_IN_LEGEND],
        labels[:_MOST_IN_LEGEND],
        title=f"path{more}",
        loc="outside right upper",
        frameon=False,
    )
    return figure


def plot_robustness(results: Results) -> "Figure":
    """Clean accuracy and accuracy under each attack: a line a network, a panel a threat model, the worst in figures.

    Raises UsageError while no network was attacked.
    """
    attacks = _there(attacked(results), "attacked networks", results)
    networks = summary(results).merge(attacks[NETWORK].drop_duplicates(), on=NETWORK)
    place = {network: -number for number, network in enumerate(zip(networks["kind"], networks["name"], strict=True))}
    names = [name for name in attacks["attack"].unique() if name != WORST]
    threats = list(attacks.groupby("threat", sort=False))
    figure = _figure(3.0 + 4.5 * len(threats), 1.8 + 0.3 * len(place))
    panels = figure.subplots(1, len(threats), sharey=True, squeeze=False)[0]
    for axis, (threat, rows) in zip(panels, threats, strict=True):
        norm, epsilon = threat.split()
        _dress(axis, xlabel="accuracy, %", title=f"{norm}, epsilon {epsilon}: {rows['num_examples'].max()} examples")
        axis.set_yticks(list(place.values()), networks["name"])
        axis.set_xlim(0, 104)
        worst = rows[rows["attack"] == WORST]
        heights = _heights(worst, place)
        axis.hlines(heights, worst["robust_accuracy"] * 100, worst["clean_accuracy"] * 100, color=_GREY, linewidth=1)
        axis.plot(worst["clean_accuracy"] * 100, heights, "o", mfc="white", mec="black", label="clean")
        for name, marker, colour in zip(names, cycle(_MARKERS), cycle(_COLOURS[:-1]), strict=False):
            some = rows[rows["attack"] == name]
            axis.plot(some["robust_accuracy"] * 100, _heights(some, place), marker, color=colour, label=name)
        axis.plot(worst["robust_accuracy"] * 100, heights, "|", color="black", markersize=14, label=WORST)
        for robust, height in zip(worst["robust_accuracy"] * 100, heights, strict=True):
            note = {"xytext": (-5, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            axis.annotate(f"{robust:.1f}", (robust, height), fontsize="small", **note)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    return figure


def plot_transfer(results: Results) -> "Figure":
    """Accuracy, in %, of every network (column) on the inputs that an attack made on every other (row): a heat map.

    Raises UsageError while there is no transfer, and where the table holds several attacks or threat models.
    """
    rows = _there(results.transfer, "transfer accuracies", results)
    kinds = rows[["transfer_id", "attack", "norm", "epsilon"]].drop_duplicates()
    if len(kinds) > 1:
        raise UsageError(f"there are {len(kinds)} transfer matrices; choose one with results.transfer.query(...)")
    names = [name for name in summary(results)["name"] if name in set(rows["maker"])]
    table = rows.pivot(index="maker", columns="target", values="accuracy").loc[names, names] * 100
    figure = _figure(2.5 + 0.5 * len(names), 2.0 + 0.4 * len(names))
    axis = figure.subplots()
    image = axis.imshow(table, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    attack, norm, epsilon = kinds[["attack", "norm", "epsilon"]].iloc[0]
    axis.set(xlabel="judged", ylabel="attacked", title=f"accuracy, % ({attack}, {norm}, epsilon {epsilon:g})")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", color="white" if value < 55 else "black")
    figure.colorbar(image)
    return figure


def _heights(rows: pd.DataFrame, place: dict[tuple[str, str], int]) -> list[int]:
    return [place[network] for network in zip(rows["kind"], rows["name"], strict=True)]


def _there(rows: pd.DataFrame, what: str, results: Results) -> pd.DataFrame:
    if rows.empty:
        raise UsageError(f"{results.directory} holds no {what} yet: run the study on, then draw")
    return rows


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _dress(axis: "Axes", **labels: str) -> None:
    axis.set(**labels)
    axis.grid(color="#e4e4e4")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
