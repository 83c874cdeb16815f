"""Heat maps of transfer: accuracies of networks on adversarial examples that were made on others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fipray.analysis.drawing import heat_map, new_figure, plain, present, width_of
from fipray.analysis.results import Results
from fipray.analysis.table import summary
from fipray.border import checked
from fipray.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked
def plot_transfer(results: Results) -> "Figure":
    """Heat maps of transfer: accuracy of each target (column) on adversarial examples made on each source (row).

    Args:
        results: results of a study.

    Returns:
        The figure, in percent: a heat map per attack and threat model.

    Raises:
        UsageError: if there are no transfer accuracies yet.
    """
    rows = present(results.transfer, "transfer accuracies", results)
    known = {*rows["source"], *rows["target"]}
    panels = {
        f"{attack}, {norm}, epsilon {epsilon:g}": some
        for (attack, norm, epsilon), some in rows.groupby(["attack", "norm", "epsilon"])
    }
    return transfer_heat_maps(panels, names=[name for name in summary(results)["name"] if name in known])


@checked
def transfer_heat_maps(tables: Mapping[str, pd.DataFrame], *, names: Sequence[str] | None = None) -> "Figure":
    """Heat maps of transfer accuracies side by side, on one colour scale from 0 to 100 %.

    Rows of a map are sources, columns targets. Above it stand the mean accuracy on adversarial examples made on the
    target itself, and that on examples made on other networks.

    Args:
        tables: frames by title, with the columns source, target and accuracy (0..1) as in `results.transfer`. Of
            several rows for a pair, the one with the most examples is shown, or the last.
        names: names of the networks for all maps, in order; by default those of each table, in their order there.

    Returns:
        The figure.

    Raises:
        UsageError: without tables, for a table without rows or with missing columns, and for one that mixes attacks or
            threat models.
    """
    if not tables:
        raise UsageError("there are no tables of transfer: give a mapping of titles to frames")
    maps = {title: _percentages(title, table, names) for title, table in tables.items()}
    labels = [*(name for table in maps.values() for name in (*table.index, *table.columns))]
    most_rows, margin = max(map(len, maps.values())), width_of(labels)
    widths = [max(2.9, 0.36 * len(table.columns)) for table in maps.values()]
    num_margins = 1 if names else len(maps)  # maps of the same networks share their labels
    width = sum(widths) + margin * num_margins + 0.3 * len(maps) + 1.3
    figure = new_figure(width, max(2.5, 0.36 * most_rows) + 1.1 * (1 + margin))
    axes = figure.subplots(1, len(maps), sharey=bool(names), squeeze=False, width_ratios=widths)[0]
    for axis, (title, table) in zip(axes, maps.items(), strict=True):
        image = heat_map(axis, table)
        axis.set_title(f"{plain(title)}\n{_own_and_others(table)}", fontsize="medium")
        axis.set_xlabel("target")
    axes[0].set_ylabel("source of the examples")
    figure.colorbar(image, ax=axes, label="accuracy of the target, %", shrink=0.8, aspect=30)
    return figure


def _percentages(title: str, table: pd.DataFrame, names: Sequence[str] | None) -> pd.DataFrame:
    """Accuracies in percent: a row per source, a column per target."""
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
    sources, targets = (names or pairs[column].unique() for column in ("source", "target"))
    return (
        pairs.pivot(index="source", columns="target", values="accuracy").reindex(index=sources, columns=targets) * 100
    )


def _own_and_others(table: pd.DataFrame) -> str:
    """Means of a table of percentages on and off the diagonal, as a text."""
    # By name instead of position: rows and columns need not be the same networks.
    own = np.equal.outer(table.index.to_numpy(), table.columns.to_numpy())
    values = table.to_numpy()
    parts = {"own inputs": values[own], "others'": values[~own]}
    return ", ".join(f"{name} {np.nanmean(some):.1f} %" for name, some in parts.items() if np.isfinite(some).any())
