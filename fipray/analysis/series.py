"""Continual learning: accuracies on every task of the networks along a chain of paths."""

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
    """Accuracy matrix of a chain of networks on tasks, with the measures of continual learning.

    In the measures, R_ij is the accuracy of network i of the chain on task j, R_jj that of the network that learned the
    task, and T the last network. Networks that learn no task, such as sparse ones in between, are part of the chain.

    Args:
        accuracies: accuracies, 0..1: a row per network in the order of the chain, a column per task.
        learned_at: name of the network that learned each task, without tasks that none of them learned.
    """

    accuracies: pd.DataFrame
    learned_at: dict[str, str]

    @property
    def average_accuracy(self) -> float:
        """`mean_j R_Tj` over the learned tasks (Lopez-Paz & Ranzato 2017)."""
        return float(self._at_end.mean())

    @property
    def forgetting(self) -> float:
        """`mean_j max_i R_ij - R_Tj` over tasks learned before the last network (Chaudhry et al. 2018).

        The maximum is over networks from the one that learned task j to the one before the last. Negative if accuracies
        rose after learning; NaN if no task was learned before the last network.
        """
        lost = []
        for task, network in self.learned_at.items():
            since = self.accuracies[task].loc[network:]
            if len(since) > 1:
                lost.append(since.iloc[:-1].max() - since.iloc[-1])
        return float(np.mean(lost)) if lost else np.nan

    @property
    def backward_transfer(self) -> float:
        """`mean_j R_Tj - R_jj` over tasks learned before the last network (Lopez-Paz & Ranzato 2017); NaN if none."""
        gains = [
            self._at_end[task] - self.accuracies.loc[network, task]
            for task, network in self.learned_at.items()
            if network != self.accuracies.index[-1]
        ]
        return float(np.mean(gains)) if gains else np.nan

    def forward_transfer(self, untrained: float | pd.Series) -> float:
        """`mean_j R_(j-1)j - b_j`: accuracy on tasks before they were learned (Lopez-Paz & Ranzato 2017).

        Args:
            untrained: accuracy b_j of an untrained network, 0..1: one number, or one per task.

        Returns:
            Mean over tasks learned after the first network; NaN without any.
        """
        # Each row then holds the accuracies of the network before it in the chain.
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
    """Chain of paths from the base network to the end of a path.

    Args:
        results: results of a study.
        end: name or path_id of the last path.

    Returns:
        Rows of `paths`, in the order of the chain.

    Raises:
        UsageError: for a name that no path or several paths have, and for a chain with a missing path.
        CorruptFileError: if a path continues itself.
    """
    paths = results.paths
    own = paths[(paths["name"] == end) | (paths["path_id"] == end)]
    if len(own) != 1:
        known = ", ".join(own["path_id"] if len(own) else paths["name"]) or "none yet"
        raise UsageError(f"{len(own)} paths are named {end!r}; give one of: {known}")
    places = {id: place for place, id in enumerate(paths["path_id"])}
    found: list[int] = []
    next_id: Any = own["path_id"].iloc[0]
    # A missing parent is NaN in a column of texts, which is not None and not false.
    while isinstance(next_id, str):
        if next_id not in places:
            raise UsageError(f"{results.address} lacks the path {next_id} on the way to {end!r}: continue the study")
        if places[next_id] in found:  # would loop forever; only an altered table holds a cycle
            raise CorruptFileError(
                f"path {next_id} in {results.address} continues itself: its table `paths` was altered"
            )
        found.insert(0, places[next_id])
        next_id = paths["parent_path_id"].iloc[found[0]]
    return paths.iloc[found].reset_index(drop=True)


@checked
def task_series(results: Results, end: str, *, known: Collection[str] | None = None) -> TaskSeries:
    """Accuracies on every task of the networks from the base to the end of a path.

    Args:
        results: results of a study whose data has tasks with test inputs.
        end: name or path_id of the last path of the chain.
        known: tasks that the base network had learned; by default those that no path of the study learns.

    Returns:
        The accuracy matrix, with the network that learned each task.

    Raises:
        UsageError: for an unknown path or task, for results without accuracies on tasks, and if no task was learned.
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
    # Pivoting sorts rows and columns by name, so their order is restored.
    at_ends = own.pivot(index="name", columns="task", values="accuracy").reindex(index=chain["name"], columns=columns)
    # Paths of other chains do not count, even if they learned a task.
    accuracies = pd.concat([at_start.reindex(columns).to_frame(BASE).T, at_ends]).set_axis(order)
    on_the_way = own[own["learned"]].set_index("task")["name"].to_dict()
    if known is None:
        known = set(columns) - {*tasks[tasks["learned"]]["task"]}
    elif unknown := set(known) - set(columns):
        raise UsageError(f"there are no tasks {', '.join(sorted(unknown))}; the tasks are: {', '.join(columns)}")
    learned_at = {task: on_the_way.get(task, BASE) for task in columns if task in on_the_way or task in known}
    if not learned_at:
        raise UsageError(f"no task was learned on the way to {end!r}: name the tasks of the base network, known=(...)")
    return TaskSeries(accuracies.rename_axis(index="network", columns="task"), learned_at)
