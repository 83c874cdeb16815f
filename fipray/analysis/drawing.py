"""Elements shared by all figures. matplotlib is imported when the first figure is made.

Figures are made without pyplot, so that they hold no global state and never open a window.
"""

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
    """Make an empty figure with constrained layout.

    Args:
        width: width in inches.
        height: height in inches.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps figures alive and may open windows

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def dress(axis: "Axes", **labels: str) -> None:
    """Give an axis its labels, a light grid, and no upper and right border.

    Args:
        axis: the axis.
        **labels: labels such as `xlabel`, `ylabel` and `title`.
    """
    axis.set(**labels)
    axis.grid(color="#e4e4e4")
    # matplotlib draws grid lines above patches by default.
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def heat_map(axis: "Axes", table: pd.DataFrame) -> Any:
    """Draw a table of percentages as an image, with the numbers in its cells.

    Args:
        axis: axis to draw on.
        table: percentages, 0..100; NaN leaves a cell empty.

    Returns:
        The image, for a colour bar.
    """
    # Limits are fixed, so that maps side by side share one colour bar, and maps of different studies compare.
    image = axis.imshow(table, cmap="Blues", vmin=0, vmax=100)
    axis.set_xticks(range(len(table.columns)), table.columns.map(short), rotation=90)
    axis.set_yticks(range(len(table.index)), table.index.map(short))
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if np.isfinite(value):
            colour = "black" if value < 60 else "white"  # cells darken with their value
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize="small")
    return image


def plain(text: str) -> str:
    """Escape a text so that matplotlib draws it literally.

    Args:
        text: text from anywhere.

    Returns:
        Text without control characters, and with dollars that start no formula.
    """
    return printable_lines(text).replace("$", r"\$")


def short(name: str) -> str:
    """Shorten a name to a label of at most 31 characters.

    Args:
        name: name from anywhere.

    Returns:
        Escaped name, with an ellipsis in the middle if it is too long.
    """
    half = _LONGEST_NAME // 2  # the middle is cut, as names of members differ at their end
    return plain(name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[-half:]}")


def width_of(names: Iterable[str]) -> float:
    """Estimate the width of the longest label.

    Args:
        names: names to be labels; at least one.

    Returns:
        Width in inches.
    """
    return 0.095 * max(len(short(name)) for name in names)  # inches per character at the default font size


def present(rows: pd.DataFrame, what: str, results: Results) -> pd.DataFrame:
    """Check that there is something to draw.

    Args:
        rows: rows of a frame.
        what: what they are, for the message.
        results: results that they are from.

    Returns:
        The same rows.

    Raises:
        UsageError: if there are none.
    """
    if rows.empty:
        raise UsageError(f"{results.address} holds no {what} yet: continue the study, then draw")
    return rows
