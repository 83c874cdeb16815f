"""Networks that followed each other along a chain of paths, and how well each does every task."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd

from fipray.analysis.results import BASE, Results
from fipray.border import checked
from fipray.errors import CorruptFileError, UsageError


@final
@dataclass(frozen=True, eq=False)
class TaskSeries:
    """Accuracies, 0..1, of the networks of a chain (rows, in order) on tasks (columns), and at which network each task
    was learned; tasks that none of them learned are not in `learned_at`.

    R_ij is the accuracy on task j when task i had been learned, T the last; of other networks, such as those that were
    made sparse in between, only the accuracies before and at the end count.
    """

    accuracies: pd.DataFrame
    learned_at: dict[str, str]

    @property
    def average_accuracy(self) -> float:
        """`mean_j R_Tj` over the tasks that were learned (Lopez-Paz & Ranzato 2017)."""
        return float(self._at_end.mean())

    @property
    def forgetting(self) -> float:
        """`mean_j max_i R_ij - R_Tj` over tasks learned before the last and networks from there to before the end
        (Chaudhry et al. 2018); below 0 where tasks became better. NaN where nothing could be forgotten.
        """
        lost = []
        for task, network in self.learned_at.items():
            since = self.accuracies[task].loc[network:]
            if len(since) > 1:
                lost.append(since.iloc[:-1].max() - since.iloc[-1])
        return float(np.mean(lost)) if lost else np.nan

    @property
    def backward_transfer(self) -> float:
        """`mean_j R_Tj - R_jj` over tasks learned before the end (Lopez-Paz & Ranzato 2017); NaN without any."""
        gains = [
            self._at_end[task] - self.accuracies.loc[network, task]
            for task, network in self.learned_at.items()
            if network != self.accuracies.index[-1]
        ]
        return float(np.mean(gains)) if gains else np.nan

    def forward_transfer(self, untrained: float | pd.Series) -> float:
        """`mean_j R_(j-1)j - b_j` over tasks learned on the way (Lopez-Paz & Ranzato 2017): how much was known of them
        just before; b are accuracies of untrained networks, one for all or one a task. NaN without any such task.
        """
        before = self.accuracies.shift(1)
        chance = pd.Series(untrained, index=self.accuracies.columns)
        gains = [
            before.loc[network, task] - chance[task]
            for task, network in self.learned_at.items()
            if network != self.accuracies.index[0]
        ]
        return float(np.mean(gains)) if gains else np.nan

    @property
    def _at_end(self) -> "pd.Series[Any]":
        return self.accuracies[list(self.learned_at)].iloc[-1]


@checked
def lineage(results: Results, end: str) -> pd.DataFrame:
    """The rows of `paths` that lead from the base to the end of the path with this name or path_id, in order.

    Raises UsageError for a name that no path has, or that several have.
    """
    paths = results.paths
    own = paths[(paths["name"] == end) | (paths["path_id"] == end)]
    if len(own) != 1:
        there = ", ".join(own["path_id"] if len(own) else paths["name"]) or "none yet"
        raise UsageError(f"{len(own)} paths are named {end!r}; give one of: {there}")
    places = {id: place for place, id in enumerate(paths["path_id"])}
    found: list[int] = []
    next_id: Any = own["path_id"].iloc[0]
    while isinstance(next_id, str):
        if next_id not in places:
            raise UsageError(f"{results.address} lacks the path {next_id} on the way to {end!r}: run the study on")
        if places[next_id] in found:
            raise CorruptFileError(
                f"in {results.address} path {next_id} goes on from itself: its table `paths` is altered"
            )
        found.insert(0, places[next_id])
        next_id = paths["parent_path_id"].iloc[found[0]]
    return paths.iloc[found].reset_index(drop=True)


@checked
def task_series(results: Results, end: str, *, known: Collection[str] | None = None) -> TaskSeries:
    """What became of every task on the way from the base to the end of a path, given by its name or path_id.

    known: the tasks that the base had learned; by default those that no path of the study learns.
    Raises UsageError for an unknown path and for results without accuracies on tasks.
    """
    chain, tasks = lineage(results, end), results.tasks.sort_values("task_number", kind="stable")
    own = tasks[tasks["path_id"].isin(chain["path_id"])]
    if own.empty:
        raise UsageError(
            f"{results.address} holds no accuracies on tasks: give the study tasks with test inputs, "
            "Data(tasks={name: Task(...)})"
        )
    order = [BASE, *chain["name"]]
    columns = list(dict.fromkeys(own["task"]))
    at_start = own[own["path_id"] == chain["path_id"].iloc[0]].set_index("task")["accuracy_at_start"]
    at_ends = own.pivot(index="name", columns="task", values="accuracy").reindex(index=chain["name"], columns=columns)
    accuracies = pd.concat([at_start.reindex(columns).to_frame(BASE).T, at_ends]).set_axis(order)
    on_the_way = own[own["learned"]].set_index("task")["name"].to_dict()
    if known is None:
        known = set(columns) - {*tasks[tasks["learned"]]["task"]}
    elif unknown := set(known) - set(columns):
        raise UsageError(f"there are no tasks {', '.join(sorted(unknown))}; there are: {', '.join(columns)}")
    learned_at = {task: on_the_way.get(task, BASE) for task in columns if task in on_the_way or task in known}
    if not learned_at:
        raise UsageError(f"no task was learned on the way to {end!r}: say what the base knows, known=(...)")
    return TaskSeries(accuracies.rename_axis(index="network", columns="task"), learned_at)
