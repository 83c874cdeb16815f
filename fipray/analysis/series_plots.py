"""Figures of chains of paths and of the tasks learned along them. Each function returns a matplotlib Figure."""

from collections.abc import Collection, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.drawing import COLOURS, GREY, dress, heat_map, new_figure, plain, present, short, width_of
from fipray.analysis.results import BASE, Results
from fipray.analysis.series import task_series
from fipray.border import checked
from fipray.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked
def plot_tasks(results: Results, end: str, *, known: Collection[str] | None = None) -> "Figure":
    """Heat map of the accuracy of each network of a chain (row) on each task (column).

    A frame marks the network that learned a task.

    Args:
        results: results of a study whose data has tasks with test inputs.
        end: name or path_id of the last path of the chain.
        known: tasks that the base network had learned; by default those that no path of the study learns.

    Returns:
        The figure, in percent.

    Raises:
        UsageError: as of `task_series`.
    """
    series = task_series(results, end, known=known)
    table = series.accuracies * 100
    size = (max(2.9, 0.55 * len(table.columns)) + width_of(table.index) + 1.3, max(2.0, 0.45 * len(table)) + 1.6)
    figure = new_figure(size[0], size[1] + 0.6 * width_of(table.columns))
    axis = figure.subplots()
    image = heat_map(axis, table)
    for task, network in series.learned_at.items():
        corner = (table.columns.get_loc(task) - 0.5, table.index.get_loc(network) - 0.5)
        axis.add_patch(_rectangle(corner))
    lost = series.forgetting
    title = f"average accuracy {100 * series.average_accuracy:.1f} %"
    axis.set_title(title + (f", forgetting {100 * lost:.1f} %" if np.isfinite(lost) else ""), fontsize="medium")
    axis.set(xlabel="task", ylabel="network")
    figure.colorbar(image, ax=axis, label="accuracy, %", shrink=0.8, aspect=30)
    return figure


@checked
def plot_learning(results: Results, ends: Sequence[str], *, known: Collection[str] | None = None) -> "Figure":
    """Accuracy along chains of paths: a bold line for the mean over tasks learned so far, a thin one per task.

    Args:
        results: results of a study whose data has tasks with test inputs.
        ends: names or path_ids of the last paths of the chains.
        known: tasks that the base network had learned; by default those that no path of the study learns.

    Returns:
        The figure, in percent.

    Raises:
        UsageError: without chains, and as of `task_series`.
    """
    chains = {end: task_series(results, end, known=known) for end in ends}
    if not chains:
        raise UsageError("no chains were given: name the last path of each")
    longest = max(chains.values(), key=lambda series: len(series.accuracies)).accuracies
    figure = new_figure(6.5 + width_of(chains), 3.6 + 0.7 * width_of(longest.index))
    axis = figure.subplots()
    for (end, series), colour in zip(chains.items(), cycle(COLOURS)):
        values, networks = series.accuracies * 100, list(series.accuracies.index)
        seen = values.copy()
        for task in values:
            begins = networks.index(series.learned_at[task]) if task in series.learned_at else len(networks)
            # Accuracies before a task was learned are not part of the mean.
            seen.iloc[:begins, seen.columns.get_loc(task)] = np.nan
            axis.plot(np.arange(len(seen)), seen[task], color=colour, linewidth=0.6, alpha=0.6)
        axis.plot(np.arange(len(seen)), seen.mean(axis=1), color=colour, marker="o", label=short(end))
    # Chains of different networks have no common names: then the ticks are numbers.
    names = longest.index if len({tuple(s.accuracies.index) for s in chains.values()}) == 1 else range(len(longest))
    axis.set_xticks(range(len(longest)), [short(str(name)) for name in names], rotation=90)
    dress(axis, ylabel="accuracy, %", title="bold: mean over tasks learned so far; thin: each task")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


@checked
def plot_lineage(results: Results) -> "Figure":
    """Tree of the networks of a study, each at the end of a path that starts at the network on its left.

    Below the name of a network stand its clean accuracy (for data with tasks: its accuracy on each, in their order)
    and, if it is not dense, its sparsity.

    Args:
        results: results of a study.

    Returns:
        The figure.

    Raises:
        UsageError: if there are no paths yet.
    """
    paths = present(results.paths, "paths", results)
    children: dict[Any, list[Any]] = {}
    for row in paths.itertuples():
        parent = row.parent_path_id if isinstance(row.parent_path_id, str) else BASE
        children.setdefault(parent, []).append(row)
    places: dict[str, tuple[int, float]] = {}
    labels = {BASE: BASE}

    def place(id: str, depth: int, leaves: int) -> int:
        """Place a network and its descendants; return the number of leaves placed so far."""
        first = leaves
        for row in children.get(id, []):
            labels[row.path_id] = short(row.name)
            leaves = place(row.path_id, depth + 1, leaves)
        below = [places[row.path_id][1] for row in children.get(id, [])]
        # Leaves get a line each, a parent the mean height of its children.
        places[id] = (depth, sum(below) / len(below) if below else float(first))
        return max(leaves, first + 1)

    num_leaves = place(BASE, 0, 0)
    depth = max(x for x, _ in places.values())
    figure = new_figure(2.2 + depth * (1.2 + width_of(labels.values())), 0.9 + 0.62 * num_leaves)
    axis = figure.subplots()
    for parent, rows in children.items():
        for row in rows:
            if parent in places:  # not of paths whose parent is missing
                (x, y), (to_x, to_y) = places[parent], places[row.path_id]
                middle = (x + to_x) / 2
                axis.plot([x, middle, middle, to_x], [y, y, to_y, to_y], color=GREY, linewidth=1, zorder=1)
                start = f"@{row.start.partition('@')[2]}" if "@" in row.start else ""
                axis.annotate(plain(start), (middle, to_y), fontsize="x-small", color=GREY, ha="left", va="bottom")
    details = {row.path_id: _details(row, results.tasks) for row in paths.itertuples()}
    for id, (x, y) in places.items():
        axis.scatter(x, y, color=COLOURS[0 if id == BASE else 2], zorder=2)
        text = f"{labels[id]}\n{details[id]}" if details.get(id) else labels[id]
        axis.annotate(text, (x, y), xytext=(0, 5), textcoords="offset points", fontsize="small", ha="center")
    axis.set_xlim(-0.5, depth + 0.5)
    axis.set_ylim(num_leaves - 0.3, -0.8)
    axis.axis("off")
    return figure


def _details(path: Any, tasks: pd.DataFrame) -> str:
    """Accuracy and sparsity of the network at the end of a path, as a short text."""
    own = tasks[tasks["path_id"] == path.path_id].sort_values("task_number")["accuracy"]
    shown = own if len(own) else pd.Series([path.clean_accuracy]).dropna()
    parts = [" / ".join(f"{100 * value:.1f}" for value in shown) + " %"] if len(shown) else []
    return ", ".join([*parts, *([f"{path.sparsity:.0%} zeros"] if path.sparsity >= 0.005 else [])])


def _rectangle(corner: tuple[float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=1.6)
