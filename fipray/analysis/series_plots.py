"""Figures of tasks learned along chains of paths. Each function returns a matplotlib Figure; see `plots.py`."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.drawing import COLOURS, band, curve, dress, heat_map, look
from fipray.analysis.intervals import spread, wilson
from fipray.analysis.results import Results
from fipray.analysis.series import TaskSeries, lineage, task_series
from fipray.analysis.sheet import Style, sheet
from fipray.analysis.shown import Names, Seeds, Shown, SomeResults, band_note, chosen, counted
from fipray.analysis.transfer_plots import precision
from fipray.border import checked
from fipray.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked
def plot_tasks(
    results: Results,
    end: str,
    *,
    known: Collection[str] | None = None,
    names: Names = None,
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Heat map of the accuracy of each network of a chain (row) on each task (column).

    A frame marks the network that learned a task. Below the map stands the half width of the widest of Wilson's 95 %
    intervals.

    Args:
        results: results of a study whose data has tasks with test inputs.
        end: name or path_id of the last path of the chain.
        known: tasks that the base network had learned; by default those that no path of the study learns.
        names: names of networks to show, in order, or labels by name; measures in the title are of the whole chain.
        ax: axes to draw on; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure, in percent.

    Raises:
        UsageError: as of `task_series`, and for unknown names.
    """
    series = task_series(results, end, known=known)
    labels = chosen(names, list(series.accuracies.index), "networks")
    table = series.accuracies.loc[list(labels)] * 100
    counts = _num_examples(results, end)
    with sheet(style, ax) as page:
        size = (
            max(2.9, 0.55 * len(table.columns)) + page.width_of(table.index) + 1.3,
            max(2.0, 0.45 * len(table)) + 1.6,
        )
        cell = 0.45
        if page.is_paper:
            width = {"paper": 3.3, "paper-wide": 6.9}[style] - page.width_of(table.index) - 1.0
            cell = min(0.35, max(width, 0.5) / len(table.columns))
            size = (size[0], cell * len(table) + 0.9)
        (axis,) = page.axes(1, (size[0], size[1] + 0.6 * page.width_of(table.columns)))
        image = heat_map(axis, table.rename(index=labels), longest=18 if page.is_paper else 30, cell=cell)
        for task, network in series.learned_at.items():
            if network in labels:
                corner = (table.columns.get_loc(task) - 0.5, table.index.get_loc(network) - 0.5)
                axis.add_patch(_rectangle(corner))
        axis.set_aspect("auto")  # few tasks would leave most of the figure empty
        lost, separator = series.forgetting, ",\n" if page.is_paper else ", "
        title = f"average accuracy {100 * series.average_accuracy:.1f} %"
        title += f"{separator}forgetting {100 * lost:.1f} %" if np.isfinite(lost) else ""
        axis.set_title(title, fontsize=8 if page.is_paper else "medium")
        of_all = table.stack()
        note = precision(of_all / 100, of_all.index.get_level_values("task").map(counts), page)
        axis.set(xlabel=f"task{note}", ylabel="network")
        assert page.figure is not None
        page.figure.colorbar(image, ax=axis, label="accuracy, %", shrink=0.8, aspect=30)
    return page.figure


@checked
def plot_learning(
    results: SomeResults,
    ends: Sequence[str],
    *,
    known: Collection[str] | None = None,
    names: Names = None,
    seeds: Seeds = "interval",
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Accuracy along chains of paths: a bold line for the mean over tasks learned so far, a thin one per task.

    Bands are 95 % intervals of the mean: Wilson's for a single chain, with the number of examples that gives a mean of
    T accuracies its variance, `T^2 / sum_j 1/n_j`; for chains that differ in their seed alone, which are one line
    without those of its tasks, see `plot_points`. Chains of one network after the base have markers and no line.

    Args:
        results: results of a study whose data has tasks with test inputs, or of several: a sequence, or a mapping by
            label.
        ends: names or path_ids of the last paths of the chains; those that a study lacks are left out.
        known: tasks that the base network had learned; by default those that no path of the study learns.
        names: names of ends to show, in order, or labels by name. For a sequence of several results, a sequence of
            names labels these results.
        seeds: "interval", "range" or "each", see `plot_points`.
        ax: axes to draw on; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure, in percent.

    Raises:
        UsageError: without chains, as of `task_series`, and for unknown names.
    """
    if not ends:
        raise UsageError("no chains were given: name the last path of each")
    shown = Shown.of(results, names, seeds)
    chains: dict[tuple[int, str], TaskSeries] = {}
    for number, _, each in shown:
        there = {*each.paths["name"], *each.paths["path_id"]}
        # With one results an unknown name is refused; with several, some may lack an end.
        own = [end for end in ends if end in there or len(shown.results) == 1]
        chains |= {(number, end): task_series(each, end, known=known) for end in own}
    if not chains:
        raise UsageError(f"none of the results has a path {' or '.join(map(repr, ends))}")
    frame = pd.DataFrame(list(chains), columns=["result", "name"])
    rows = shown.rows(lambda each: _of(frame, shown, each), "chains")
    longest = max(chains.values(), key=lambda series: len(series.accuracies)).accuracies
    networks = {tuple(series.accuracies.index) for series in chains.values()}
    # Chains of different networks have no common names: then the ticks are numbers.
    ticks = [str(name) for name in (longest.index if len(networks) == 1 else range(len(longest)))]
    with sheet(style, ax) as page:
        height = {"default": 3.6, "paper": 2.0, "paper-wide": 2.6}[style]
        (axis,) = page.axes(1, (6.5, height + 0.7 * page.width_of(ticks)))
        num_runs = 1
        for number, (label, runs) in enumerate(rows.groupby("label", sort=False)):
            chained = [
                (chains[key], shown.results[key[0]], key[1]) for key in zip(runs["result"], runs["name"], strict=True)
            ]
            num_runs = max(num_runs, len(chained))
            _chain(axis, chained, seeds, look(number) | {"label": counted(page.short(str(label)), len(chained))})
        every = max(1, -(-len(ticks) // (12 if style == "paper" else 30)))
        axis.set_xticks(range(0, len(ticks), every), [page.short(tick) for tick in ticks[::every]])
        axis.tick_params(axis="x", rotation=90 if len(networks) == 1 else 0)
        dress(axis, xlabel="" if len(networks) == 1 else "paths since the base", ylabel="accuracy, %")
        notes = ["bold: mean over tasks learned so far; thin: each task"]
        page.say(axis, [*notes, *([band_note(seeds)] if num_runs > 1 else [])])
        page.legend(*axis.get_legend_handles_labels())
    assert page.figure is not None
    return page.figure


def _of(chains: pd.DataFrame, shown: Shown, results: Results) -> pd.DataFrame:
    number = next(number for number, _, each in shown if each is results)
    return chains[chains["result"] == number][["name"]]


def _num_examples(results: Results, end: str) -> dict[str, int]:
    """Count the test examples of each task."""
    chain = lineage(results, end)["path_id"]
    own = results.tasks[results.tasks["path_id"].isin(chain)]
    return dict(zip(own["task"], own["num_examples"], strict=True))


def _learned(series: TaskSeries) -> pd.DataFrame:
    """Accuracies in percent, NaN before a task was learned."""
    seen, networks = series.accuracies * 100, list(series.accuracies.index)
    for task in seen:
        begins = networks.index(series.learned_at[task]) if task in series.learned_at else len(networks)
        # Accuracies before a task was learned are not part of the mean.
        seen.iloc[:begins, seen.columns.get_loc(task)] = np.nan
    return seen


def _chain(axis: Any, runs: Sequence[tuple[TaskSeries, Results, str]], seeds: str, style: dict[str, Any]) -> None:
    """Draw one chain with its tasks, or the mean of several chains."""
    learned = [_learned(series) for series, _, _ in runs]
    steps = min(map(len, learned))
    at, means = np.arange(steps), np.stack([seen.mean(axis=1).to_numpy()[:steps] for seen in learned])
    if len(runs) == 1:
        seen = learned[0]
        for task in seen:
            if seen[task].notna().sum() > 2:  # two points have no line
                thin = {"linewidth": 0.6, "alpha": 0.6, "linestyle": style["linestyle"]}
                axis.plot(at, seen[task], color=style["color"], **thin)
            else:
                axis.plot(at, seen[task], color=style["color"], marker=".", linestyle="none", markersize=3, alpha=0.6)
        counts = seen.columns.map(_num_examples(*runs[0][1:])).to_numpy(float)
        inverse = (seen.notna() / counts).sum(axis=1).to_numpy()
        effective = seen.notna().sum(axis=1).to_numpy() ** 2 / np.where(inverse > 0, inverse, np.nan)
        low, high = wilson(means[0] / 100, effective)
    else:
        low, high = (np.clip(bound / 100, 0, 1) for bound in spread(means, seeds))
    band(axis, at, 100 * low, 100 * high, style["color"])
    curve(axis, at, means.mean(axis=0), **style, linewidth=1.6, markersize=4.5)


def _rectangle(corner: tuple[float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=1.6)
