"""One row a network: what became of it and what it withstands, as a frame and for the terminal."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO, final

import pandas as pd

from fipray.analysis.results import BASE, Results

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

NETWORK = ["kind", "name"]
KINDS = ["base", "path", "ensemble"]
WORST, NO_ATTACK = "worst", "none"
_MEASURES = ["sparsity", "functional_distance_held_out", "clean_accuracy"]
_ROBUST = "robust_accuracy "
_WIDTH_OF_A_PIPE = 120


def summary(results: Results) -> pd.DataFrame:
    """One row for the base, each path and each ensemble, in this order.

    Columns: name, kind, num_members, outcome (of paths only), sparsity, functional_distance_held_out, clean_accuracy
    (on as many examples as it was measured on), and `robust_accuracy ATTACK NORM EPSILON` for every attack and threat
    model, `worst` the last of each. NaN where a network was not judged.
    """
    start = results.points[results.points["step"] == 0].head(1).assign(kind="base", name=BASE, outcome=None)
    walked = pd.concat([start, results.paths.assign(kind="path")])[[*NETWORK, "outcome", *_MEASURES]]
    judged = results.robustness.sort_values("num_examples", kind="stable").drop_duplicates(NETWORK, keep="last")
    table = walked.merge(
        judged[[*NETWORK, "num_members", *_MEASURES]], on=NETWORK, how="outer", suffixes=("", "_judged")
    )
    table["num_members"] = table["num_members"].fillna(1).astype("int64")
    for measure in _MEASURES:
        table[measure] = table[measure].fillna(table[f"{measure}_judged"])
    attacks = attacked(results)
    columns = _ROBUST + attacks["attack"] + " " + attacks["threat"]
    robust = attacks.assign(column=columns).pivot(index=NETWORK, columns="column", values="robust_accuracy")
    table = table.merge(robust.reset_index(), on=NETWORK, how="left")
    table = table.sort_values(NETWORK, key=_kinds_first, ignore_index=True)
    return table[["name", "kind", "num_members", "outcome", *_MEASURES, *columns.unique()]]


def attacked(results: Results) -> pd.DataFrame:
    """The robustness table without the rows of no attack: one row a network, attack and threat model, `worst` last.

    It is the one on the most examples. The column `threat` says the threat model in short: "linf 0.1".
    """
    rows = results.robustness[results.robustness["attack"] != NO_ATTACK]
    rows = rows.sort_values("num_examples", kind="stable")
    rows = rows.drop_duplicates([*NETWORK, "attack", "norm", "epsilon"], keep="last")
    epsilons = rows["epsilon"].map("{:g}".format).astype("str")
    rows = rows.assign(threat=rows["norm"] + " " + epsilons, last=rows["attack"] == WORST)
    rows = rows.sort_values(["norm", "epsilon", "last", "attack", *NETWORK], key=_kinds_first, ignore_index=True)
    return rows.drop(columns="last")


def _kinds_first(column: "pd.Series[str]") -> "pd.Series[int] | pd.Series[str]":
    return column.map(KINDS.index) if column.name == "kind" else column


def render(results: Results) -> "SummaryTable":
    """The summary as something that a rich console prints."""
    return SummaryTable(summary(results), results.manifest["study"], sorted(attacked(results)["num_examples"].unique()))


def print_summary(results: Results, file: TextIO | None = None) -> None:
    """Prints the summary: as wide as the terminal is, and 120 columns (or $COLUMNS) wide where there is none."""
    from rich.console import Console

    console = Console(file=file, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_A_PIPE
    console.print(render(results))


@final
@dataclass(frozen=True)
class SummaryTable:
    """A summary laid out for the console that it is printed on: a narrow one gets fewer attacks, the worst to the last.

    `num_examples`: the different numbers of examples that were attacked, in order.
    """

    frame: pd.DataFrame
    study: str
    num_examples: Sequence[int]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        attacks = [column for column in self.frame.columns if column.startswith(_ROBUST)]
        shown = list(attacks)
        # min finds the first of equals: the attacks go from the right, and then the worst go.
        while shown and self._narrowest(console, options, shown) > options.max_width:
            shown.remove(min(reversed(shown), key=lambda column: column.startswith(_ROBUST + WORST)))
        yield self._table(shown)
        yield Text(self._note(len(attacks) - len(shown)), style="dim")

    def _narrowest(self, console: "Console", options: "ConsoleOptions", attacks: Sequence[str]) -> int:
        from rich.measure import Measurement

        return Measurement.get(console, options.update_width(10_000), self._table(attacks)).minimum

    def _table(self, attacks: Sequence[str]) -> "Table":
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column(
            "name", overflow="fold", min_width=min(20, self.frame["name"].str.len().max()) if len(self.frame) else 4
        )
        table.add_column("kind", no_wrap=True)
        table.add_column("outcome", min_width=24)
        for header in (
            "sparsity",
            "functional distance",
            "clean accuracy",
            *(a.removeprefix(_ROBUST) for a in attacks),
        ):
            upper, _, lower = header.partition(" ")
            table.add_column(f"{upper}\n{lower}", justify="right", no_wrap=True, min_width=max(len(upper), len(lower)))
        kinds = list(self.frame["kind"])
        for row, next_kind in zip(self.frame.to_dict("records"), [*kinds[1:], None], strict=False):
            table.add_row(
                row["name"],
                row["kind"] if row["num_members"] == 1 else f"{row['kind']} of {row['num_members']}",
                _cell(row["outcome"], "{}"),
                _cell(row["sparsity"], "{:.3f}"),
                _cell(row["functional_distance_held_out"], "{:.4f}"),
                *(_cell(row[column] * 100, "{:.1f}") for column in ("clean_accuracy", *attacks)),
                end_section=row["kind"] != next_kind,
            )
        return table

    def _note(self, num_hidden: int) -> str:
        parts = [f"study {self.study}: functional distance to the base, on held-out inputs; accuracies in %"]
        if self.num_examples:
            few, many = self.num_examples[0], self.num_examples[-1]
            parts.append(f"under attack on {few if few == many else f'{few} to {many}'} examples")
        if num_hidden:
            parts.append(f"attacks not shown here but in fipray.analysis.summary(results): {num_hidden}")
        return "; ".join(parts)


def _cell(value: object, form: str) -> str:
    return "" if pd.isna(value) else form.format(value)
