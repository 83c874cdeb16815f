"""One row a network: what became of it and what it withstands, as a frame and for the terminal."""

import os
from typing import TYPE_CHECKING, TextIO, final

import pandas as pd

from fipray.analysis.results import Results

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_NETWORK = ["kind", "name"]
_KINDS = ["base", "path", "ensemble"]
_MEASURES = ["sparsity", "functional_distance_held_out", "clean_accuracy"]
_ROBUST = "robust_accuracy "
_WORST = "worst"


def summary(results: Results) -> pd.DataFrame:
    """One row for the base, each path and each ensemble, in this order.

    Columns: name, kind, num_members, outcome (of paths), sparsity, functional_distance_held_out, clean_accuracy, and
    `robust_accuracy ATTACK NORM EPSILON` for every attack and threat model, `worst` first for each. Where a network was
    attacked, its clean accuracy is that of the attacked examples, so that no robust accuracy is above it.
    """
    start = results.points[results.points["step"] == 0].head(1).assign(kind="base", name="base")
    walked = pd.concat([start, results.paths.assign(kind="path")])[[*_NETWORK, "outcome", *_MEASURES]]
    attacks = _attacks(results)
    attacked = attacks.drop_duplicates(_NETWORK, keep="last")[[*_NETWORK, "num_members", *_MEASURES]]
    table = walked.merge(attacked, on=_NETWORK, how="outer", suffixes=("", "_attacked"))
    table["num_members"] = table["num_members"].fillna(1).astype("int64")
    for measure in _MEASURES:
        table[measure] = table[measure].fillna(table[f"{measure}_attacked"])
    table["clean_accuracy"] = table["clean_accuracy_attacked"].fillna(table["clean_accuracy"])
    robust = attacks.pivot(index=_NETWORK, columns="column", values="robust_accuracy")
    table = table.merge(robust.reset_index(), on=_NETWORK, how="left")
    table["kind"] = pd.Categorical(table["kind"], _KINDS)
    table = table.sort_values(_NETWORK, ignore_index=True).astype({"kind": "str"})
    return table[["name", "kind", "num_members", "outcome", *_MEASURES, *_robust_columns(attacks)]]


def _attacks(results: Results) -> pd.DataFrame:
    """The robustness table with one row a network, attack and threat model: the one on the most examples."""
    attacks = results.robustness.sort_values("num_examples", kind="stable")
    attacks = attacks.drop_duplicates([*_NETWORK, "attack", "norm", "epsilon"], keep="last")
    names = [
        f"{_ROBUST}{attack} {norm} {epsilon:g}"
        for attack, norm, epsilon in zip(attacks["attack"], attacks["norm"], attacks["epsilon"], strict=True)
    ]
    return attacks.assign(column=pd.Series(names, index=attacks.index, dtype="str"))


def _robust_columns(attacks: pd.DataFrame) -> list[str]:
    ordered = attacks.assign(other=attacks["attack"] != _WORST).sort_values(["norm", "epsilon", "other", "attack"])
    return list(ordered["column"].unique())


@final
class SummaryTable:
    """The summary as a rich renderable. Where the console is too narrow for all attacks, the worst go before others."""

    def __init__(self, results: Results) -> None:
        self.frame = summary(results)
        self.num_examples = sorted(results.robustness["num_examples"].unique())
        self.title = f"study {results.manifest['study']}"

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        robust = [column for column in self.frame.columns if column.startswith(_ROBUST)]
        shown = self._fitting(robust, options.max_width)
        yield self._table(shown)
        yield from self._notes(len(robust) - len(shown))

    def _fitting(self, robust: list[str], width: int) -> list[str]:
        ...


def print_summary(results: Results, file: TextIO | None = None) -> None:
    """Prints the summary to a terminal, or as plain text of 120 columns (or COLUMNS) to anything else."""
    from rich.console import Console

    console = Console(file=file)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 120
    console.print(SummaryTable(results))
