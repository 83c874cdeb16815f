"""One row a network: what became of it and what it withstands, as a frame and for the terminal."""

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
_WIDTH_OF_A_PIPE = 120
_NARROWEST_OUTCOME, _GAP = 14, 2  # characters
_MOST_SENTENCES = 12


@checked
def summary(results: Results) -> pd.DataFrame:
    """One row for the base, each path, each sparse variant on its way, and each ensemble, in this order.

    Columns: name, kind, num_members; of paths only: outcome, objective_start, objective_end, accuracy_collapsed_step
    and warnings (empty where nothing speaks against a path); sparsity, functional_distance_held_out, clean_accuracy (on
    all test inputs once the network was judged), and `robust_accuracy ATTACK NORM EPSILON` for every attack and
    threat model, `worst` the last of each. NaN where a network was not judged.
    """
    from_base = results.paths[results.paths["start"] == BASE]["path_id"]
    first = (results.points["step"] == 0) & results.points["path_id"].isin(from_base)
    start = results.points[first].head(1).assign(kind="base", name=BASE)
    walked = pd.concat([start, results.paths.assign(kind="path")])[[*NETWORK, *_OF_PATHS, *_MEASURES]]
    # The row of no attack is the one on the most examples: on all of them.
    judged = results.robustness.sort_values("num_examples", kind="stable").drop_duplicates(NETWORK, keep="last")
    judged = judged[[*NETWORK, "num_members", *_MEASURES]]
    table = walked.merge(judged, on=NETWORK, how="outer", suffixes=("_walked", ""))
    table["num_members"] = table["num_members"].fillna(1).astype("int64")
    for measure in _MEASURES:
        table[measure] = table[measure].fillna(table[f"{measure}_walked"])
    attacks = attacked(results)
    columns = _ROBUST + attacks["attack"] + " " + attacks["threat"]
    cells = attacks.assign(column=columns).drop_duplicates([*NETWORK, "column"])
    robust = cells.pivot(index=NETWORK, columns="column", values="robust_accuracy")
    table = table.merge(robust.reset_index(), on=NETWORK, how="left")
    table = table.sort_values(NETWORK, key=_kinds_first, ignore_index=True)
    return table[["name", "kind", "num_members", *_OF_PATHS, *_MEASURES, *columns.unique()]]


def attacked(results: Results) -> pd.DataFrame:
    """The robustness table without the rows of no attack: one row a network, attack and threat model, `worst` last.

    It is the one on the most examples. The column `threat` says the threat model in short: "linf 0.1".
    """
    rows = results.robustness[results.robustness["attack"] != NO_ATTACK]
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
    """The summary as something that a rich console prints."""
    judged = attacked(results)
    masked = judged.loc[judged["warnings"].fillna("") != "", "name"].unique()
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
    """A sentence for each path that learned a task or follows one that did, and where no chain goes on; few of them."""
    paths, tasks = results.paths, results.tasks
    if not tasks["learned"].any():
        return []
    ends = paths[~paths["path_id"].isin(paths["parent_path_id"])]
    sentences = []
    for end in ends.itertuples():
        chain = lineage(results, end.path_id)
        if tasks[tasks["path_id"].isin(chain["path_id"])]["learned"].any():
            series = task_series(results, end.path_id)
            sentences.append(
                f"{end.name}: {len(series.learned_at)} tasks learned, average accuracy "
                f"{100 * series.average_accuracy:.1f} %, forgetting {100 * series.forgetting:.1f} %"
            )
    return _few(sentences, "ends of chains")


def _few(sentences: Sequence[str], of_what: str) -> list[str]:
    hidden = len(sentences) - _MOST_SENTENCES
    return [*sentences[:_MOST_SENTENCES], *([f"and {hidden} more {of_what}"] if hidden > 0 else [])]


@checked
def print_summary(results: Results, file: TextIO | None = None) -> None:
    """Prints the summary: as wide as the terminal is, and 120 columns (or $COLUMNS) wide where there is none."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_PIPE
    console.print(render(results))
    if len(results.trials):
        console.print()
        console.print(table_of_trials(results))


@final
@dataclass(frozen=True)
class SummaryTable:
    """A summary laid out for the console that it is printed on: a narrow one gets fewer attacks, the worst to the last.

    `num_examples`: the different numbers of examples that were attacked, in order. `masked`: names of networks with
    signs of masked gradients.
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
        # min finds the first of equals: the attacks go from the right, and then the worst go.
        while shown and self._room_for_outcome(options.max_width, shown) < _NARROWEST_OUTCOME:
            shown.remove(min(reversed(shown), key=lambda column: column.startswith(_ROBUST + WORST)))
        yield self._table(options.max_width, shown)
        yield Text()
        yield Text(self._note(len(attacks) - len(shown)), style="dim")
        if len(self.masked):
            yield Text(
                "Gradients may be masked, so that attacks find too little (column `warnings` of `robustness`), in: "
                + printable(", ".join(self.masked))
            )
        for sentence in (*self._warnings(), *self.learned):
            yield Text(printable(sentence))

    def _warnings(self) -> list[str]:
        """A sentence for each path that something speaks against; few of them."""
        marked = self.frame[self.frame["warnings"].fillna("") != ""]
        sentences = [f"{name}: {said}" for name, said in zip(marked["name"], marked["warnings"], strict=True)]
        return _few(sentences, "paths with warnings")

    def _width_of_names(self, width: int) -> int:
        """A quarter of the table at most; longer names are folded."""
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
                _cell(row["sparsity"], "{:.3f}"),
                _cell(row["functional_distance_held_out"], "{:.4f}"),
                *(_cell(row[column] * 100, "{:.1f}") for column in ("clean_accuracy", *attacks)),
            )
            table.add_row(*map(Text, cells), end_section=row["kind"] != next_kind)  # a str would be read as markup
        return table

    def _note(self, num_hidden: int) -> str:
        where = "the base (of what was not judged, to its path's start)" if self.chained else "the base"
        parts = [f"study {self.study}: functional distance to {where}, on held-out inputs; accuracies in %"]
        if self.num_examples:
            few, many = self.num_examples[0], self.num_examples[-1]
            parts.append(f"under attack on {few if few == many else f'{few} to {many}'} examples")
        if num_hidden:
            parts.append(f"columns of attacks that found no room here (fipray.analysis.summary has all): {num_hidden}")
        return "; ".join(parts)


def _headers(attacks: Sequence[str]) -> list[tuple[str, str]]:
    """The two lines above each column of numbers."""
    threats = [column.removeprefix(_ROBUST).rsplit(" ", maxsplit=2) for column in attacks]
    return [
        ("", "sparsity"),
        ("functional", "distance"),
        ("clean", "accuracy"),
        *((attack, f"{norm} {epsilon}") for attack, norm, epsilon in threats),
    ]


def _cell(value: object, form: str) -> str:
    return "" if pd.isna(value) else form.format(value)
