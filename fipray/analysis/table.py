"""Summary of all networks, one row each: as a frame, and as a table for the terminal."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, final

import pandas as pd

from fipray.analysis.results import BASE, Results, in_order
from fipray.analysis.series import lineage, task_series
from fipray.analysis.trials import table_of_trials
from fipray.border import checked
from fipray.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

NETWORK = ["kind", "name"]
KINDS = ["base", "path", "variant", "ensemble"]
WORST, NO_ATTACK = "worst", "none"
_MEASURES = ["sparsity", "functional_distance_held_out", "clean_accuracy"]
_OF_PATHS = ["outcome", "objective_start", "objective_end", "accuracy_collapsed_step", "warnings"]
_ROBUST = "robust_accuracy "
SPARSITY = "{:.3f}"  # one number of digits wherever a sparsity is shown
_WIDTH_OF_A_PIPE = 120
_NARROWEST_OUTCOME, _GAP = 14, 2  # characters
_MOST_SENTENCES = 12


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
    columns = _ROBUST + attacks["attack"] + " " + attacks["threat"]
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
def render(results: Results) -> "SummaryTable":
    """Make the summary as an object that a rich console prints.

    Args:
        results: results of a study.

    Returns:
        The object, for `rich.print` or `Console.print`.
    """
    judged = attacked(results)
    masked = judged.loc[judged["warnings"].fillna("") != "", "name"].unique()
    # Escaped before the table is laid out: widths are counted in the characters that are shown.
    frame = summary(results).rename(columns=printable)
    for column in ("name", "kind", "outcome"):
        frame[column] = frame[column].map(printable, na_action="ignore")
    return SummaryTable(
        frame,
        results.manifest["study"],
        sorted(judged["num_examples"].unique()),
        masked,
        chained=bool((results.paths["start"] != BASE).any()),
        learned=_learned(results),
    )


def _learned(results: Results) -> list[str]:
    """Sentences on the tasks learned at the end of each chain of paths, at most `_MOST_SENTENCES`."""
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
    return _first(sentences, "ends of chains")


def _first(sentences: Sequence[str], of_what: str) -> list[str]:
    hidden = len(sentences) - _MOST_SENTENCES
    return [*sentences[:_MOST_SENTENCES], *([f"and {hidden} more {of_what}"] if hidden > 0 else [])]


@checked
def print_summary(results: Results, file: TextIO | None = None) -> None:
    """Print the summary and, for a search, the Pareto front of its trials.

    The width is that of the terminal; without one, $COLUMNS or 120.

    Args:
        results: results of a study or search.
        file: stream to print to; by default standard output.
    """
    from rich.console import Console

    console = Console(file=file, highlight=False)
    # Without a terminal rich assumes 80 columns, which would hide attacks in files and in logs of CI.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_PIPE
    console.print(render(results))
    if len(results.trials):
        console.print()
        console.print(table_of_trials(results))


@final
@dataclass(frozen=True)
class SummaryTable:
    """Summary that fits the width of the console: a narrow one shows fewer attacks, and drops `worst` last.

    Args:
        frame: the summary, see `summary`.
        study: name of the study.
        num_examples: the different numbers of attacked examples, sorted.
        masked: names of networks with signs of gradient masking.
        chained: whether some paths start from others than the base.
        learned: sentences on learned tasks.
    """

    frame: pd.DataFrame
    study: str
    num_examples: Sequence[int]
    masked: Sequence[str] = ()
    chained: bool = False
    learned: Sequence[str] = ()

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        attacks = [column for column in self.frame.columns if column.startswith(_ROBUST)]
        shown = list(attacks)
        # min returns the first of equals: other attacks are dropped from the right, and `worst` after all of them.
        while shown and self._room_for_outcome(options.max_width, shown) < _NARROWEST_OUTCOME:
            shown.remove(min(reversed(shown), key=lambda column: column.startswith(_ROBUST + WORST)))
        yield self._table(options.max_width, shown)
        yield Text()
        yield Text(self._note(len(attacks) - len(shown)), style="dim")
        if len(self.masked):
            yield Text(
                "Robust accuracy may be overestimated, as there are signs of gradient masking (column `warnings` of "
                "`robustness`), in: " + printable(", ".join(self.masked))
            )
        for sentence in (*self._warnings(), *self.learned):
            yield Text(printable(sentence))

    def _warnings(self) -> list[str]:
        """Sentences on paths with warnings, at most `_MOST_SENTENCES`."""
        marked = self.frame[self.frame["warnings"].fillna("") != ""]
        sentences = [f"{name}: {text}" for name, text in zip(marked["name"], marked["warnings"], strict=True)]
        return _first(sentences, "paths with warnings")

    def _width_of_names(self, width: int) -> int:
        """Width of the column of names: at most a quarter of the table, longer names are folded."""
        return min(max(map(len, ["name", *self.frame["name"]])), width // 4)

    def _room_for_outcome(self, width: int, attacks: Sequence[str]) -> int:
        others = [self._width_of_names(width), max(map(len, KINDS)), *(max(map(len, h)) for h in _headers(attacks))]
        return width - sum(other + _GAP for other in others)

    def _table(self, width: int, attacks: Sequence[str]) -> "Table":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        table.add_column("name", overflow="fold", width=self._width_of_names(width))
        table.add_column("kind", no_wrap=True, width=max(map(len, KINDS)))
        table.add_column("outcome", max_width=max(_NARROWEST_OUTCOME, self._room_for_outcome(width, attacks)))
        for header in _headers(attacks):
            table.add_column(Text("\n".join(header)), justify="right", no_wrap=True, width=max(map(len, header)))
        kinds = list(self.frame["kind"])
        for row, next_kind in zip(self.frame.to_dict("records"), [*kinds[1:], None], strict=False):
            cells = (
                row["name"],
                row["kind"],
                f"{row['num_members']} members" if row["kind"] == "ensemble" else _cell(row["outcome"], "{}"),
                _cell(row["sparsity"], SPARSITY),
                _cell(row["functional_distance_held_out"], "{:.4f}"),
                *(_cell(row[column] * 100, "{:.1f}") for column in ("clean_accuracy", *attacks)),
            )
            # Text instead of str: rich would interpret square brackets in a name as markup.
            table.add_row(*map(Text, cells), end_section=row["kind"] != next_kind)
        return table

    def _note(self, num_hidden: int) -> str:
        where = "the base (for networks that were not evaluated: to their path's start)" if self.chained else "the base"
        parts = [f"study {self.study}: functional distance to {where}, on held-out inputs; accuracies in %"]
        if self.num_examples:
            fewest, most = self.num_examples[0], self.num_examples[-1]
            parts.append(f"under attack on {fewest if fewest == most else f'{fewest} to {most}'} examples")
        if num_hidden:
            parts.append(f"columns of attacks that do not fit here (fipray.analysis.summary has all): {num_hidden}")
        return "; ".join(parts)


def _headers(attacks: Sequence[str]) -> list[tuple[str, str]]:
    """Two-line headers of the columns of numbers."""
    threats = [column.removeprefix(_ROBUST).rsplit(" ", maxsplit=2) for column in attacks]
    return [
        ("", "sparsity"),
        ("functional", "distance"),
        ("clean", "accuracy"),
        *((attack, f"{norm} {epsilon}") for attack, norm, epsilon in threats),
    ]


def _cell(value: object, form: str) -> str:
    return "" if pd.isna(value) else form.format(value)
