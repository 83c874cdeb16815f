"""Figure of the networks of a study as a tree. The function returns a matplotlib Figure; see `plots.py`."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from fipray.analysis.drawing import COLOURS, GREY, plain, present
from fipray.analysis.results import BASE, Results
from fipray.analysis.sheet import Style, sheet
from fipray.analysis.shown import Names, chosen
from fipray.border import checked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checked
def plot_lineage(results: Results, *, names: Names = None, ax: Any = None, style: Style = "default") -> "Figure":
    """Tree of the networks of a study, each at the end of a path that starts at the network on its left.

    Below the name of a network stand its clean accuracy (for data with tasks: its accuracy on each, in their order)
    and, if it is not dense, its sparsity.

    Args:
        results: results of a study.
        names: names of paths to show, or labels by name; the networks on the way to them are shown, too.
        ax: axes to draw on; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure.

    Raises:
        UsageError: if there are no paths yet, and for unknown names.
    """
    paths = present(results.paths, "paths", results)
    renamed = chosen(names, list(dict.fromkeys(paths["name"])), "paths")
    if names is not None:
        paths = _with_ancestors(paths, paths["name"].isin(renamed))
    children: dict[Any, list[Any]] = {}
    for row in paths.itertuples():
        parent = row.parent_path_id if isinstance(row.parent_path_id, str) else BASE
        children.setdefault(parent, []).append(row)
    places: dict[str, tuple[int, float]] = {}
    labels = {BASE: BASE, **{row.path_id: renamed.get(row.name, row.name) for row in paths.itertuples()}}

    def place(id: str, depth: int, leaves: int) -> int:
        """Place a network and its descendants; return the number of leaves placed so far."""
        first = leaves
        for row in children.get(id, []):
            leaves = place(row.path_id, depth + 1, leaves)
        below = [places[row.path_id][1] for row in children.get(id, [])]
        # Leaves get a line each, a parent the mean height of its children.
        places[id] = (depth, sum(below) / len(below) if below else float(first))
        return max(leaves, first + 1)

    num_leaves = place(BASE, 0, 0)
    depth = max(x for x, _ in places.values())
    details = {row.path_id: _details(row, results.tasks) for row in paths.itertuples()}
    with sheet(style, ax) as page:
        # In a column of a paper neighbours would overlap: every second one has its name below.
        is_staggered = page.is_paper and depth > 1
        row = 0.62 if not page.is_paper else 0.8 if is_staggered else 0.42
        (axis,) = page.axes(
            1, (2.2 + depth * (1.2 + page.width_of(labels.values())), 0.9 * page.scale + row * num_leaves)
        )
        for parent, rows in children.items():
            for row in rows:
                if parent in places:  # not of paths whose parent is missing
                    side = "top" if is_staggered and places[row.path_id][0] % 2 == 0 else "bottom"
                    _connect(axis, places[parent], places[row.path_id], row.start, page.small, side)
        for id, (x, y) in places.items():
            if id != BASE and id not in details:
                continue
            marker: dict[str, Any] = (
                {"color": COLOURS[0], "marker": "s"} if id == BASE else {"color": COLOURS[2], "marker": "o"}
            )
            axis.scatter(x, y, **marker, s=36 * page.scale**2, zorder=2)
            text = "\n".join(filter(None, (page.short(labels[id]), details.get(id, ""))))
            is_below = is_staggered and x % 2 == 1
            if page.is_paper:
                text = text.replace(" %, ", " %\n")
            beside, side = ((0, -5), "top") if is_below else ((0, 5), "bottom")
            at: dict[str, Any] = {"xytext": beside, "va": side, "ha": "center", "textcoords": "offset points"}
            axis.annotate(text, (x, y), fontsize=page.small, **at)
        axis.set_xlim(-0.5, depth + 0.5)
        axis.set_ylim(num_leaves - (0.1 if is_staggered else 0.3), -0.8)
        axis.axis("off")
    assert page.figure is not None
    return page.figure


def _connect(axis: "Axes", start: tuple[int, float], end: tuple[int, float], name: str, size: float, side: Any) -> None:
    middle = (start[0] + end[0]) / 2
    xs, ys = [start[0], middle, middle, end[0]], [start[1], start[1], end[1], end[1]]
    axis.plot(xs, ys, color=GREY, linewidth=1, zorder=1)
    sparsity = f"@{name.partition('@')[2]}" if "@" in name else ""
    axis.annotate(plain(sparsity), (middle, end[1]), fontsize=size - 1, color="#606060", ha="left", va=side)


def _with_ancestors(paths: pd.DataFrame, wanted: "pd.Series[bool]") -> pd.DataFrame:
    kept = set(paths[wanted]["path_id"])
    parents = dict(zip(paths["path_id"], paths["parent_path_id"], strict=True))
    for id in list(kept):
        while isinstance(parents.get(id), str) and parents[id] not in kept:
            id = parents[id]
            kept.add(id)
    return paths[paths["path_id"].isin(kept)]


def _details(path: Any, tasks: pd.DataFrame) -> str:
    """Accuracy and sparsity of the network at the end of a path, as a short text."""
    own = tasks[tasks["path_id"] == path.path_id].sort_values("task_number")["accuracy"]
    shown = own if len(own) else pd.Series([path.clean_accuracy]).dropna()
    parts = [" / ".join(f"{100 * value:.1f}" for value in shown) + " %"] if len(shown) else []
    return ", ".join([*parts, *([f"{path.sparsity:.0%} zeros"] if path.sparsity >= 0.005 else [])])
