"""Summary of all networks, one row each: as a frame, and as a table for the terminal."""

import json
import os
from typing import Any, TextIO

import pandas as pd

from fipray.analysis.results import BASE, Results, in_order
from fipray.analysis.series import lineage, task_series
from fipray.analysis.summary_table import KINDS, ROBUST, WORST, SummaryTable, first_of, spoken
from fipray.analysis.trials import table_of_trials
from fipray.border import checked
from fipray.errors import UsageError
from fipray.printable import printable, without_credentials

NETWORK = ["kind", "name"]
NO_ATTACK = "none"
_MEASURES = ["sparsity", "functional_distance_held_out", "clean_accuracy"]
_OF_PATHS = ["outcome", "objective_start", "objective_end", "accuracy_collapsed_step", "warnings"]
_WIDTH_OF_A_PIPE = 10_000  # characters: files and other programs get every column, in lines of their own


@checked
def summary(results: Results) -> pd.DataFrame:
    """Summarise the networks of a study: one row for the base, each path, each sparse variant and each ensemble.

    Args:
        results: results of a study.

    Returns:
        Rows in that order, with the columns name, kind, num_members; for paths only outcome, objective_start,
        objective_end, accuracy_collapsed_step and warnings (empty if there are none); sparsity,
        functional_distance_held_out, clean_accuracy (on all test inputs once the network was evaluated); and
        `robust_accuracy ATTACK NORM EPSILON` for every attack and threat model, with `worst` as the last of each
        threat model. NaN for what was not measured.
    """
    from_base = results.paths[results.paths["start"] == BASE]["path_id"]
    first = (results.points["step"] == 0) & results.points["path_id"].isin(from_base)
    start = results.points[first].head(1).assign(kind="base", name=BASE)
    walked = pd.concat([start, results.paths.assign(kind="path")])[[*NETWORK, *_OF_PATHS, *_MEASURES]]
    # The row without attack is that with the most examples, as it is measured on all of them.
    judged = results.robustness.sort_values("num_examples", kind="stable").drop_duplicates(NETWORK, keep="last")
    judged = judged[[*NETWORK, "num_members", *_MEASURES]]
    # Outer: ensembles have no path, and paths may not be evaluated yet.
    table = walked.merge(judged, on=NETWORK, how="outer", suffixes=("_walked", ""))
    table["num_members"] = table["num_members"].fillna(1).astype("int64")
    # The evaluation is on all test inputs, and relative to the base; until then the path's own values are shown.
    for measure in _MEASURES:
        table[measure] = table[measure].fillna(table[f"{measure}_walked"])
    attacks = attacked(results)
    columns = ROBUST + attacks["attack"] + " " + attacks["threat"]
    # Pivoting raises for duplicates.
    cells = attacks.assign(column=columns).drop_duplicates([*NETWORK, "column"])
    robust = cells.pivot(index=NETWORK, columns="column", values="robust_accuracy")
    table = table.merge(robust.reset_index(), on=NETWORK, how="left")
    table = table.sort_values(NETWORK, key=_kinds_first, ignore_index=True)
    return table[["name", "kind", "num_members", *_OF_PATHS, *_MEASURES, *columns.unique()]]


def attacked(results: Results) -> pd.DataFrame:
    """Rows of `robustness` under attack: one row per network, attack and threat model, `worst` last.

    Args:
        results: results of a study.

    Returns:
        The rows, with a column `threat` such as "linf 0.1". Of several rows with the same key, the one with the most
        examples is used.
    """
    rows = results.robustness[results.robustness["attack"] != NO_ATTACK]
    # Converted to `str`, because mapping an empty column leaves its dtype float64, which cannot be added to texts.
    threats = rows["norm"] + " " + rows["epsilon"].map("{:g}".format).astype("str")
    rows = rows.assign(threat=threats, last=rows["attack"] == WORST).sort_values("num_examples", kind="stable")
    rows = rows.drop_duplicates([*NETWORK, "attack", "threat"], keep="last")
    rows = rows.sort_values(["norm", "epsilon", "last", "attack", *NETWORK], key=_kinds_first, ignore_index=True)
    return rows.drop(columns="last")


def _kinds_first(column: "pd.Series[Any]") -> "pd.Series[Any]":
    place = {kind: number for number, kind in enumerate(KINDS)}
    return column.map(place).fillna(len(KINDS)) if column.name == "kind" else in_order(column)


@checked
def render(results: Results, *, sort: str = "") -> SummaryTable:
    """Make the summary as an object that a rich console prints.

    Args:
        results: results of a study.
        sort: column of `summary` to sort by, from the least value; with a hyphen before it from the greatest. Empty for
            the order of `summary`.

    Returns:
        The object, for `rich.print` or `Console.print`.

    Raises:
        UsageError: for an unknown column; the message lists the known ones.
    """
    judged = attacked(results)
    masked = judged.loc[judged["warnings"].fillna("") != "", "name"].unique()
    frame = sorted_by(summary(results), sort)
    counts = num_examples(results, frame)
    # Escaped before the table is laid out: widths are counted in the characters that are shown.
    frame = frame.rename(columns=printable)
    for column in ("name", "kind", "outcome"):
        frame[column] = frame[column].map(printable, na_action="ignore")
    return SummaryTable(
        frame,
        results.manifest["study"],
        sorted(judged["num_examples"].unique()),
        masked,
        chained=bool((results.paths["start"] != BASE).any()),
        learned=_learned(results),
        counts=counts.rename(columns=printable),
        sectioned=not sort,
    )


def num_examples(results: Results, frame: pd.DataFrame) -> pd.DataFrame:
    """Count the examples that each accuracy of the summary was measured on.

    Args:
        results: results of a study.
        frame: its summary, in any order.

    Returns:
        The columns of `frame` with accuracies, in its order; NaN for accuracies that were not measured, and for those
        of which nothing says on how many examples.
    """
    judged = results.robustness.sort_values("num_examples", kind="stable").drop_duplicates(NETWORK, keep="last")
    attacks = attacked(results)
    attacks = attacks.assign(column=ROBUST + attacks["attack"] + " " + attacks["threat"])
    rows = pd.concat([judged.assign(column="clean_accuracy"), attacks])[[*NETWORK, "column", "num_examples"]]
    cells = rows.drop_duplicates([*NETWORK, "column"]).pivot(index=NETWORK, columns="column", values="num_examples")
    index = pd.MultiIndex.from_frame(frame[NETWORK])
    columns = [column for column in frame if column == "clean_accuracy" or column.startswith(ROBUST)]
    return cells.reindex(index=index, columns=columns).astype(float).reset_index(drop=True)


def sorted_by(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Sort the summary by a column.

    Args:
        frame: the summary.
        column: name of a column, with a hyphen before it to begin with the greatest; empty for no change. A column
            `robust_accuracy` is that under the worst attack, and bounds may be written as 8/255.

    Returns:
        The rows in that order, equal ones as before; missing values come last.

    Raises:
        UsageError: for an unknown column.
    """
    if not column:
        return frame
    known = {each: each for each in frame} | {spoken(each): each for each in frame}
    if worst := [each for each in frame if each.startswith(f"{ROBUST}{WORST} ")]:
        known.setdefault("robust_accuracy", worst[-1])
    is_descending = column.startswith("-")
    if (wanted := column.removeprefix("-")) not in known:
        raise UsageError(
            f"cannot sort by {wanted!r}: there is no such column; the columns are: {', '.join(map(spoken, frame))}"
        )
    return frame.sort_values(
        known[wanted], ascending=not is_descending, key=in_order, kind="stable", na_position="last", ignore_index=True
    )


def _learned(results: Results) -> list[str]:
    """Sentences on the tasks learned at the end of each chain of paths, the first of them."""
    paths, tasks = results.paths, results.tasks
    if not tasks["learned"].any():
        return []
    ends = paths[~paths["path_id"].isin(paths["parent_path_id"])]
    sentences = []
    for end in ends.itertuples():  # paths that no other path continues
        chain = lineage(results, end.path_id)
        if tasks[tasks["path_id"].isin(chain["path_id"])]["learned"].any():
            series = task_series(results, end.path_id)
            sentences.append(
                f"{end.name}: {len(series.learned_at)} tasks learned, average accuracy "
                f"{100 * series.average_accuracy:.1f} %, forgetting {100 * series.forgetting:.1f} %"
            )
    return first_of(sentences, "ends of chains")


@checked
def print_summary(results: Results, file: TextIO | None = None, *, sort: str = "") -> None:
    """Print the summary and, for a search, the Pareto front of its trials.

    The width is that of the terminal, where columns that do not fit are left out; without one, $COLUMNS or as wide as
    it takes.

    Args:
        results: results of a study or search.
        file: stream to print to; by default standard output.
        sort: column to sort by, see `render`.

    Raises:
        UsageError: for an unknown column.
    """
    from rich.console import Console

    console = Console(file=file, highlight=False)
    # Without a terminal rich assumes 80 columns, which would hide columns in files and in logs of CI.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_PIPE
    console.print(render(results, sort=sort))
    if len(results.trials):
        console.print()
        console.print(table_of_trials(results))


def how_to_load(directory: str) -> str:
    """Write how to load results in Python.

    Args:
        directory: results directory, or the address of one.

    Returns:
        A line for the terminal, without credentials.
    """
    quoted = json.dumps(without_credentials(directory), ensure_ascii=False)
    return f"In pandas: from fipray import analysis; results = analysis.load({quoted})"
