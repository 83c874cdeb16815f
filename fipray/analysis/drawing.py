"""Elements shared by all figures. matplotlib is imported when the first figure is made.

Figures are made without pyplot, so that they hold no global state and never open a window.
"""

from typing import TYPE_CHECKING, Any, Literal

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
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LONGEST_NAME = 30
FEW = len(COLOURS)  # lines that can be told apart at a glance
_MOST_MARKERS = 12


def new_figure(width: float, height: float, dpi: int = 120) -> "Figure":
    """Make an empty figure with constrained layout.

    Args:
        width: width in inches.
        height: height in inches.
        dpi: pixels per inch.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps figures alive and may open windows

    return Figure(figsize=(width, height), layout="constrained", dpi=dpi)


def dress(axis: "Axes", **labels: str) -> None:
    """Give an axis its labels, a light grid, and no upper and right border.

    Args:
        axis: the axis.
        **labels: labels such as `xlabel`, `ylabel` and `title`.
    """
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    axis.set(**labels)
    axis.grid(color="#e4e4e4")
    # matplotlib draws grid lines above patches by default.
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    # Ticks are made when the figure is drawn, by the settings of that moment; their own settings are those of now.
    settings: Any = rcParams
    sides: tuple[Literal["x", "y"], ...] = ("x", "y")
    for which in sides:
        size = FontProperties(size=settings[f"{which}tick.labelsize"]).get_size_in_points()
        width, length = settings[f"{which}tick.major.width"], settings[f"{which}tick.major.size"]
        axis.tick_params(axis=which, labelsize=size, width=width, length=length)


def look(number: int) -> dict[str, Any]:
    """Colour, line and marker of a line; no two of the first 252 are the same, and neighbours differ without colour.

    Args:
        number: number of the line, from 0.

    Returns:
        Arguments of `Axes.plot`.
    """
    # The three counts have no common divisor, so that all combinations come up.
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": LINES[number % len(LINES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def curve(axis: "Axes", x: Any, y: Any, *, sparse: bool = False, **style: Any) -> Any:
    """Draw measured values over x: a line through three or more, markers alone for one or two.

    Args:
        axis: axis to draw on.
        x: places [N].
        y: values [N]; NaN for what was not measured.
        sparse: whether a line has a marker at its end only, for many lines in one axis.
        **style: arguments of `Axes.plot`.

    Returns:
        The line.
    """
    # A straight line between two lone points would claim what nobody measured.
    num_known = int(np.isfinite(np.asarray(y, float)).sum())
    if num_known < 3:
        style |= {"linestyle": "none"}
    elif sparse:
        style |= {"markevery": [-1]}
    elif len(x) > _MOST_MARKERS:
        style |= {"markevery": sorted({*np.linspace(0, len(x) - 1, 6).round().astype(int).tolist()})}
    return axis.plot(x, y, **style)[0]


def band(axis: "Axes", x: Any, low: Any, high: Any, colour: str) -> None:
    """Draw intervals around a curve: a band, or a bar at each of one or two points.

    Args:
        axis: axis to draw on.
        x: places [N].
        low: lower bounds [N].
        high: upper bounds [N].
        colour: colour of the curve.
    """
    known = np.isfinite(np.asarray(low, float))
    if known.sum() > 2:
        axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=1)
    elif known.any():
        bars(axis, np.asarray(x)[known], np.asarray(low)[known], np.asarray(high)[known], colour)


def bars(axis: "Axes", x: Any, low: Any, high: Any, colour: str, **style: Any) -> None:
    """Draw an interval as a vertical bar at each x.

    Args:
        axis: axis to draw on.
        x: places [N].
        low: lower bounds [N]; NaN for no bar.
        high: upper bounds [N].
        colour: colour of the bars.
        **style: arguments of `Axes.vlines`.
    """
    known = np.isfinite(np.asarray(low, float))
    axis.vlines(
        *(np.asarray(values)[known] for values in (x, low, high)),
        color=colour,
        **({"linewidth": 0.9, "alpha": 0.8, "zorder": 1.5} | style),
    )


def heat_map(axis: "Axes", table: pd.DataFrame, *, longest: int = LONGEST_NAME, cell: float = 1.0) -> Any:
    """Draw a table of percentages as an image, with the numbers in its cells.

    Args:
        axis: axis to draw on.
        table: percentages, 0..100; NaN leaves a cell empty.
        longest: number of characters of a label.
        cell: width and height of a cell, in inches, as far as it is known. Numbers that would not fit are left out, and
            so are labels of some rows and columns.

    Returns:
        The image, for a colour bar.
    """
    from matplotlib import rcParams

    # Limits are fixed, so that maps side by side share one colour bar, and maps of different studies compare.
    image = axis.imshow(table, cmap="Blues", vmin=0, vmax=100)
    size = min(8.3, rcParams["font.size"] - 1)
    every = max(1, round(0.5 + size / 72 / cell))
    columns, rows = (range(0, len(names), every) for names in (table.columns, table.index))
    axis.set_xticks(columns, [short(str(table.columns[place]), longest) for place in columns], rotation=90)
    axis.set_yticks(rows, [short(str(table.index[place]), longest) for place in rows])
    axis.tick_params(labelsize=size)
    if cell < 1.7 * size / 72:  # three digits
        return image
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        if np.isfinite(value):
            colour = "black" if value < 60 else "white"  # cells darken with their value
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=size)
    return image


def plain(text: str) -> str:
    """Escape a text so that matplotlib draws it literally.

    Args:
        text: text from anywhere.

    Returns:
        Text without control characters, and with dollars that start no formula.
    """
    return printable_lines(text).replace("$", r"\$")


def short(name: str, longest: int = LONGEST_NAME) -> str:
    """Shorten a name to a label.

    Args:
        name: name from anywhere.
        longest: number of characters that are kept.

    Returns:
        Escaped name, with an ellipsis in the middle if it is too long.
    """
    half = longest // 2  # the middle is cut, as names of members differ at their end
    return plain(name if len(name) <= longest else f"{name[:half]}…{name[-half:]}")


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
