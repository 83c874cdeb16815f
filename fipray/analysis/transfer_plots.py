"""Heat maps of transfer: accuracies of networks on adversarial examples that were made on others."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.drawing import heat_map, plain
from fipray.analysis.intervals import half_width
from fipray.analysis.sheet import Sheet, Style, sheet
from fipray.analysis.shown import Names, Shown, SomeResults
from fipray.analysis.table import summary
from fipray.border import checked
from fipray.errors import UsageError
from fipray.printable import epsilon_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL = 0.36  # inches


@checked
def plot_transfer(results: SomeResults, *, names: Names = None, ax: Any = None, style: Style = "default") -> "Figure":
    """Heat maps of transfer: accuracy of each target (column) on adversarial examples made on each source (row).

    Args:
        results: results of a study, or of several: a sequence, or a mapping by label.
        names: names of networks to show, in order, or labels by name. For a sequence of several results, a sequence of
            names labels these results.
        ax: axes to draw on, one per map; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure, in percent: a heat map per results, attack and threat model.

    Raises:
        UsageError: if there are no transfer accuracies yet, and for unknown names.
    """
    shown = Shown.of(results, names)
    rows = shown.rows(lambda each: each.transfer, "transfer accuracies", "source")
    panels: dict[str, pd.DataFrame] = {}
    labels: dict[str, str] = {}
    for number, prefix, each in shown:
        own = rows[rows["result"] == number]
        known = {*own["source"], *each.transfer["target"]}
        networks = {name: name for name in summary(each)["name"] if name in known}
        if shown.names is not None:
            renamed = {name.removeprefix(f"{prefix}: "): label for name, label in shown.names.items()}
            networks = {name: label for name, label in renamed.items() if name in networks}
        labels |= networks
        for (attack, norm, epsilon), some in own[own["target"].isin(networks)].groupby(["attack", "norm", "epsilon"]):
            title = f"{attack}, {norm}, epsilon {epsilon_text(epsilon)}"
            panels[f"{prefix}: {title}" if prefix else title] = some
    return transfer_heat_maps(panels, names=labels, ax=ax, style=style)


@checked
def transfer_heat_maps(
    tables: Mapping[str, pd.DataFrame], *, names: Names = None, ax: Any = None, style: Style = "default"
) -> "Figure":
    """Heat maps of transfer accuracies side by side, on one colour scale from 0 to 100 %.

    Rows of a map are sources, columns targets. Above it stand the mean accuracy on adversarial examples made on the
    target itself, and that on examples made on other networks; below it, for tables with a column `num_examples`, the
    half width of the widest of Wilson's 95 % intervals. Maps too small for numbers in their cells have none.

    Args:
        tables: frames by title, with the columns source, target and accuracy (0..1) as in `results.transfer`. Of
            several rows for a pair, the one with the most examples is shown, or the last.
        names: names of the networks for all maps, in order, or labels by name; by default those of each table, in their
            order there.
        ax: axes to draw on, one per table; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure.

    Raises:
        UsageError: without tables, for a table without rows or with missing columns, and for one that mixes attacks or
            threat models.
    """
    if not tables:
        raise UsageError("there are no tables of transfer: give a mapping of titles to frames")
    wanted = names if names is None or isinstance(names, Mapping) else dict(zip(names, names, strict=True))
    pairs = {title: _pairs(title, table, wanted) for title, table in tables.items()}
    maps = {title: _percentages(own, wanted) for title, own in pairs.items()}
    with sheet(style, ax) as page:
        columns = 1 if style == "paper" else len(maps)
        margin = page.width_of(name for table in maps.values() for name in (*table.index, *table.columns))
        widths = [max(2.9, _CELL * len(table.columns)) for table in maps.values()]
        num_margins = 1 if names else columns  # maps of the same networks share their labels
        most_rows, most_columns = (max(table.shape[axis] for table in maps.values()) for axis in (0, 1))
        cell = _CELL
        if page.is_paper:
            # The page's width is given: cells are what is left of it.
            width = {"paper": 3.3, "paper-wide": 6.9}[style] - margin * num_margins - 0.35 * columns - 0.75
            cell = min(_CELL, max(width, 0.5) / columns / most_columns)
        least, margins = (0.8, 0.85) if page.is_paper else (2.5, 1.3)
        height = (max(least, cell * most_rows) + margins + 1.1 * margin) * -(-len(maps) // columns)
        total = sum(widths) + margin * num_margins + 0.3 * len(maps) + 1.3
        grid: dict[str, Any] = {} if page.given else {"sharey": bool(names) and columns > 1}
        if columns > 1 and not page.given:
            grid["width_ratios"] = widths
        axes = page.axes(len(maps), (total, height + 0.1), columns=columns, **grid)
        for axis, (title, table) in zip(axes, maps.items(), strict=True):
            image = heat_map(axis, table, longest=18 if page.is_paper else 30, cell=cell)
            axis.set_title(f"{plain(title)}\n{_own_and_others(table)}", fontsize=8 if page.is_paper else "medium")
            axis.set_xlabel("target" + _precision(pairs[title], page))
        for axis in axes if columns == 1 else axes[:1]:
            axis.set_ylabel("source of the examples")
        assert page.figure is not None
        page.figure.colorbar(image, ax=axes, label="accuracy of the target, %", shrink=0.8, aspect=30)
    return page.figure


def _pairs(title: str, table: pd.DataFrame, names: Mapping[str, str] | None) -> pd.DataFrame:
    """One row per source and target."""
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
    # Back in the original order, which is that of the names.
    pairs = table.drop_duplicates(["source", "target"], keep="last").sort_index()
    return pairs if names is None else pairs[pairs["source"].isin(names) & pairs["target"].isin(names)]


def _percentages(pairs: pd.DataFrame, names: Mapping[str, str] | None) -> pd.DataFrame:
    """Accuracies in percent: a row per source, a column per target."""
    sources, targets = (list(names or pairs[column].unique()) for column in ("source", "target"))
    table = pairs.pivot(index="source", columns="target", values="accuracy").reindex(index=sources, columns=targets)
    return 100 * (table if names is None else table.rename(index=names, columns=names))


def _own_and_others(table: pd.DataFrame) -> str:
    """Means of a table of percentages on and off the diagonal, as a text."""
    # By name instead of position: rows and columns need not be the same networks.
    own = np.equal.outer(table.index.to_numpy(), table.columns.to_numpy())
    values = table.to_numpy()
    parts = {"own inputs": values[own], "others'": values[~own]}
    return ", ".join(f"{name} {np.nanmean(some):.1f} %" for name, some in parts.items() if np.isfinite(some).any())


def _precision(pairs: pd.DataFrame, page: Sheet) -> str:
    if "num_examples" not in pairs or pairs.empty:
        return ""
    return precision(pairs["accuracy"], pairs["num_examples"], page)


def precision(fractions: "pd.Series[Any]", num_examples: "pd.Series[Any]", page: Sheet) -> str:
    """Say how precise the numbers of a heat map are.

    Args:
        fractions: accuracies, 0..1.
        num_examples: numbers of examples that they were counted on.
        page: what is drawn on.

    Returns:
        A second line for the label of an axis; empty if the numbers are unknown.
    """
    widest = half_width(fractions, num_examples)
    if not np.isfinite(widest).any():
        return ""
    return f"\n(95 % intervals: within ± {100 * np.nanmax(widest):.1f}" + (")" if page.is_paper else " points)")
