"""What all figures of results share. matplotlib is loaded when the first figure is made."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fipray.analysis.results import Results
from fipray.errors import UsageError
from fipray.printable import printable_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#909090"
_LONGEST_NAME = 30


def new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def dress(axis: "Axes", **labels: str) -> None:
    axis.set(**labels)
    axis.grid(color="#e4e4e4")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def heat_map(axis: "Axes", table: pd.DataFrame) -> Any:
    """A table of percentages as an image with its figures in it, a row a row."""
    image = axis.imshow(table, cmap="Blues", vmin=0, vmax=100)
    axis.set_xticks(range(len(table.columns)), table.columns.map(short), rotation=90)
    axis.set_yticks(range(len(table.index)), table.index.map(short))
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if np.isfinite(value):
            colour = "black" if value < 60 else "white"
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize="small")
    return image


def plain(text: str) -> str:
    """The text for matplotlib to draw as it is: without control characters, and no formula between dollars."""
    return printable_lines(text).replace("$", r"\$")


def short(name: str) -> str:
    """The name as a plain label, without its middle where it is too long."""
    half = _LONGEST_NAME // 2
    return plain(name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}")


def width_of(names: Iterable[str]) -> float:
    """How much room the longest of these labels takes, in inches."""
    return 0.095 * max(len(short(name)) for name in names)


def present(rows: pd.DataFrame, what: str, results: Results) -> pd.DataFrame:
    if rows.empty:
        raise UsageError(f"{results.address} holds no {what} yet: run the study on, then draw")
    return rows
