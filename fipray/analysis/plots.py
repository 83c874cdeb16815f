"""Figures of results. Each function returns a matplotlib Figure of its own: `.savefig(file)` writes it, nothing is shown.

matplotlib is loaded when the first figure is made. Colours are those of Okabe and Ito (2008), which colour-blind people
tell apart; where there are more paths than colours, line styles tell them apart too.
"""

from itertools import cycle, product
from typing import TYPE_CHECKING, Any

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
    styles = cycle({"color": colour, "linestyle": line} for line, colour in product(_LINES, _COLOURS))
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
    markers = dict(zip(names, zip(cycle(_MARKERS), cycle(_COLOURS[:-1])), strict=False)) | {WORST: ("D", _COLOURS[-1])}
    threats = list(attacks.groupby("threat", sort=False))
    figure = _figure(3.0 + 4.5 * len(threats), 1.8 + 0.32 * len(place))
    panels = figure.subplots(1, len(threats), sharey=True, squeeze=False)[0]
    for axis, (threat, rows) in zip(panels, threats, strict=True):
        few, many = rows["num_examples"].min(), rows["num_examples"].max()
        examples = f"{many} examples" if few == many else f"{few} to {many} examples"
        _dress(axis, xlabel="accuracy, %", title=f"{threat.replace(' ', ', epsilon ')} ({examples})")
        ...
    return figure
