"""Summary of networks as a table that fits the width of the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np
import pandas as pd

from fipray.analysis.intervals import wilson
from fipray.analysis.numbers import percent
from fipray.printable import epsilon_text, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

KINDS = ["base", "path", "variant", "ensemble"]
WORST = "worst"
ROBUST = "robust_accuracy "
_NARROWEST_OUTCOME, _GAP = 30, 2  # characters; narrower sentences would make rows of many lines
_MOST_SENTENCES = 12
SPARSITY = "{:.3f}"  # one number of digits wherever a sparsity is shown
_OTHER_ATTACK, _OUTCOME, _KIND, _DISTANCE, _SPARSITY, _CLEAN, _OTHER_WORST, _NEVER = range(8)


@final
@dataclass(frozen=True)
class Column:
    """One column of the table.

    Args:
        header: two lines.
        cells: texts, one per row.
        rank: order in which columns are left out for lack of room; `_NEVER` is kept.
        is_number: whether the cells are numbers, which are aligned at the right and never folded.
    """

    header: tuple[str, str]
    cells: Sequence[str]
    rank: int
    is_number: bool = True

    @property
    def width(self) -> int:
        """Characters of the widest line."""
        return max(map(len, [*self.header, *self.cells]))


@final
@dataclass(frozen=True)
class SummaryTable:
    """Summary that fits the width of the console.

    Accuracies have Wilson's 95 % intervals if there is room. If there is too little, columns are left out: attacks
    other than the worst, the outcome, kind, functional distance, sparsity, and the clean accuracy of attacked networks.
    The name and the main accuracy remain: that under the worst attack, or the clean one.

    Args:
        frame: the summary, see `summary`.
        study: name of the study.
        num_examples: the different numbers of attacked examples, sorted.
        masked: names of networks with signs of gradient masking.
        chained: whether some paths start from others than the base.
        learned: sentences on learned tasks.
        counts: numbers of examples of the accuracies, see `num_examples`; without rows if they are unknown.
        sectioned: whether there is a line between networks of different kinds.
    """

    frame: pd.DataFrame
    study: str
    num_examples: Sequence[int]
    masked: Sequence[str] = ()
    chained: bool = False
    learned: Sequence[str] = ()
    counts: pd.DataFrame = field(default_factory=pd.DataFrame)
    sectioned: bool = True

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.text import Text

        width = options.max_width
        columns, hidden = self.fitted(width)
        yield self._table(width, columns)
        yield Text()
        yield Text(printable(self._note(hidden)), style="dim")
        if len(self.masked):
            yield Text(
                "Robust accuracy may be overestimated, as there are signs of gradient masking (column `warnings` of "
                "`robustness`), in: " + printable(", ".join(self.masked))
            )
        for sentence in (*self._warnings(), *self.learned):
            yield Text(printable(sentence))

    def columns(self, *, intervals: bool = True) -> list[Column]:
        """All columns, in their order.

        Args:
            intervals: whether accuracies have their intervals, where these are known.

        Returns:
            The columns.
        """
        frame = self.frame
        attacks = [column for column in frame.columns if column.startswith(ROBUST)]
        worst = [column for column in attacks if column.startswith(f"{ROBUST}{WORST} ")]
        main = (worst or attacks)[-1:]
        ranks = {column: _OTHER_WORST if column in worst else _OTHER_ATTACK for column in attacks}
        ranks |= dict.fromkeys(main, _NEVER)
        outcomes = [
            f"{row.num_members} members" if row.kind == "ensemble" else _cell(row.outcome, "{}")
            for row in frame.itertuples()
        ]
        of_numbers = {
            ("", "sparsity"): ("sparsity", SPARSITY, _SPARSITY),
            ("functional", "distance"): ("functional_distance_held_out", "{:.4f}", _DISTANCE),
        }
        return [
            Column(("", "name"), list(frame["name"]), _NEVER, is_number=False),
            Column(("", "kind"), list(frame["kind"]), _KIND, is_number=False),
            Column(("", "outcome"), outcomes, _OUTCOME, is_number=False),
            *(
                Column(header, [_cell(value, form) for value in frame[column]], rank)
                for header, (column, form, rank) in of_numbers.items()
            ),
            Column(("clean", "accuracy"), self._accuracies("clean_accuracy", intervals), _CLEAN if main else _NEVER),
            *(Column(header_of(name), self._accuracies(name, intervals), ranks[name]) for name in attacks),
        ]

    def fitted(self, width: int) -> tuple[list[Column], list[Column]]:
        """Columns that fit a width.

        Args:
            width: width in characters.

        Returns:
            Columns to show, and those that are left out.
        """
        columns = self.columns()
        if self._room_for_outcome(width, columns) < _needed(columns[2]):
            columns = self.columns(intervals=False)
        hidden: list[Column] = []
        while self._is_too_wide(width, columns):
            # Of equals the last one, since min returns the first.
            least = min(reversed(columns), key=lambda column: column.rank)
            if least.rank == _NEVER:
                break
            columns.remove(least)
            hidden.append(least)
        return columns, hidden

    def _accuracies(self, name: str, intervals: bool) -> list[str]:
        values = self.frame[name].to_numpy(float)
        counts = np.full(len(values), np.nan)
        if intervals and name in self.counts:
            counts = self.counts[name].to_numpy(float)
        return [percent(value, low, high) for value, low, high in zip(values, *wilson(values, counts), strict=True)]

    def _warnings(self) -> list[str]:
        """Sentences on paths with warnings, at most `_MOST_SENTENCES`."""
        marked = self.frame[self.frame["warnings"].fillna("") != ""]
        sentences = [f"{name}: {text}" for name, text in zip(marked["name"], marked["warnings"], strict=True)]
        return first_of(sentences, "paths with warnings")

    def _width_of_names(self, width: int) -> int:
        """Width of the column of names: at most a quarter of the table, longer names are folded."""
        return min(max(map(len, ["name", *self.frame["name"]])), max(width // 4, 4))

    def _room_for_outcome(self, width: int, columns: Sequence[Column]) -> int:
        others = [column.width for column in columns if column.is_number or column.rank == _KIND]
        return width - sum(other + _GAP for other in [*others, self._width_of_names(width)])

    def _is_too_wide(self, width: int, columns: Sequence[Column]) -> bool:
        # Without the outcome the last column needs no gap.
        least = next((_needed(column) for column in columns if column.rank == _OUTCOME), -_GAP)
        return self._room_for_outcome(width, columns) < least

    def _table(self, width: int, columns: Sequence[Column]) -> "Table":
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0))
        ranks = [column.rank for column in columns]
        for column in columns:
            if column.rank == _OUTCOME:
                table.add_column("outcome", max_width=self._room_for_outcome(width, columns))
            elif column.is_number or column.rank == _KIND:
                header, side = Text("\n".join(column.header).strip()), "right" if column.is_number else "left"
                header = Text("\n".join(column.header)) if column.is_number else header
                table.add_column(header, justify=side, no_wrap=True, width=column.width)  # type: ignore[arg-type]
            else:
                # What is left over, where sentences do not take it.
                spare = 0 if _OUTCOME in ranks else self._room_for_outcome(width, columns) + _GAP
                own = min(max(map(len, ["name", *self.frame["name"]])), self._width_of_names(width) + max(spare, 0))
                table.add_column("name", overflow="fold", width=own)
        kinds = list(self.frame["kind"])
        for number, next_kind in enumerate([*kinds[1:], None][: len(kinds)]):
            cells = (column.cells[number] for column in columns)
            # Text instead of str: rich would interpret square brackets in a name as markup.
            table.add_row(*map(Text, cells), end_section=self.sectioned and kinds[number] != next_kind)
        return table

    def _note(self, hidden: Sequence[Column]) -> str:
        where = "the base (for networks that were not evaluated: to their path's start)" if self.chained else "the base"
        parts = [f"study {self.study}: functional distance to {where}, on held-out inputs; accuracies in %"]
        if self.num_examples:
            fewest, most = self.num_examples[0], self.num_examples[-1]
            parts.append(f"under attack on {fewest if fewest == most else f'{fewest} to {most}'} examples")
        if hidden:
            names = ", ".join(" ".join(filter(None, column.header)) for column in reversed(hidden))
            parts.append(f"columns that do not fit here (fipray show --csv has all): {names}")
        return "; ".join(parts)


def _needed(outcome: Column) -> int:
    """Least width of the sentences on outcomes."""
    return min(outcome.width, _NARROWEST_OUTCOME)


def header_of(column: str) -> tuple[str, str]:
    """Two-line header of a robust accuracy.

    Args:
        column: name of a column of `summary`.

    Returns:
        The attack, and the threat model.
    """
    attack, norm, epsilon = column.removeprefix(ROBUST).rsplit(" ", maxsplit=2)
    return attack, f"{norm} {_epsilon(epsilon)}"


def spoken(column: str) -> str:
    """Name of a column of `summary` as people write it.

    Args:
        column: the name, such as "robust_accuracy worst linf 0.0313725".

    Returns:
        The name with bounds as fractions of 255, such as "robust_accuracy worst linf 8/255".
    """
    return ROBUST + " ".join(header_of(column)) if column.startswith(ROBUST) else column


def first_of(sentences: Sequence[str], of_what: str) -> list[str]:
    """Cut a list of sentences.

    Args:
        sentences: the sentences.
        of_what: what the others are, for the last line.

    Returns:
        The first of them, and how many more there are.
    """
    hidden = len(sentences) - _MOST_SENTENCES
    return [*sentences[:_MOST_SENTENCES], *([f"and {hidden} more {of_what}"] if hidden > 0 else [])]


def _epsilon(text: str) -> str:
    try:
        return epsilon_text(float(text))
    except ValueError:  # an escaped text in an altered table
        return text


def _cell(value: object, form: str) -> str:
    return "" if pd.isna(value) else form.format(value)
