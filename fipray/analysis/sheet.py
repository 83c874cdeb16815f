"""What a figure is drawn on: a figure of its own, or axes of the caller's, in the style of a screen or of a paper."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import numpy as np

from fipray.analysis.drawing import new_figure, short
from fipray.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style: TypeAlias = Literal["default", "paper", "paper-wide"]

_WIDTHS = {"paper": 3.3, "paper-wide": 6.9}  # inches: a column of two, and the text of a page
_EMBEDDED = {"pdf.fonttype": 42, "ps.fonttype": 42}  # TrueType: journals refuse the default, Type 3
_PAPER = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "figure.dpi": 300,
    **_EMBEDDED,
}
_PER_LEGEND_COLUMN = 28
_HANDLE = 0.55  # inches that a legend's entry needs besides its text
_CHARACTER = 0.0092  # inches of a character's mean width, per point of its size


@final
@dataclass
class Sheet:
    """Figure or axes that one call draws on.

    Args:
        style: "default", "paper" or "paper-wide".
        given: the caller's axes; empty for a figure of its own.
        figure: the figure; None until `axes` is called.
        notes: lines above the legend, see `say`.
    """

    style: Style
    given: "tuple[Axes, ...]"
    figure: "Figure | None" = None
    notes: tuple[str, ...] = ()

    @property
    def is_paper(self) -> bool:
        """Whether sizes are those of a printed page."""
        return self.style != "default"

    @property
    def small(self) -> float:
        """Size of small text, in points."""
        return 7.0 if self.is_paper else 8.3

    @property
    def scale(self) -> float:
        """Size of text and rows, in units of the default style's."""
        return 0.7 if self.is_paper else 1.0

    def short(self, name: str) -> str:
        """Shorten a name to a label that leaves room for the data.

        Args:
            name: name from anywhere.

        Returns:
            Escaped label.
        """
        return short(name, 18 if self.style == "paper" else 30)

    def width_of(self, labels: Iterable[str]) -> float:
        """Estimate the width of the longest label, at the size of tick labels.

        Args:
            labels: names before they are shortened.

        Returns:
            Width in inches.
        """
        return 10 * self.scale * _CHARACTER * max((len(self.short(label)) for label in labels), default=0)

    def axes(self, num: int, size: tuple[float, float], *, columns: int = 0, **grid: Any) -> "list[Axes]":
        """Axes to draw on: the caller's, or those of a new figure.

        Args:
            num: number of panels.
            size: width and height of the figure in inches; papers have a width of their own.
            columns: panels side by side; 0 for all.
            **grid: arguments of `Figure.subplots`.

        Returns:
            As many axes as there are panels.

        Raises:
            UsageError: if the caller gave another number of axes.
        """
        if self.given:
            if len(self.given) != num:
                count = "1 axes was" if len(self.given) == 1 else f"{len(self.given)} axes were"
                raise UsageError(f"this figure has {num} panel{'s' if num > 1 else ''}, and {count} given as ax")
            self.figure = self.given[0].get_figure(root=True)
            return list(self.given)
        columns = min(columns or num, num)
        rows = -(-num // columns)  # rounded up
        self.figure = new_figure(_WIDTHS.get(self.style, size[0]), size[1], 300 if self.is_paper else 120)
        if self.is_paper:
            # Fonts are embedded when a file is written, and by then the style's settings are those of the caller again.
            vars(self.figure)["savefig"] = partial(_save, self.figure)
            engine: Any = self.figure.get_layout_engine()
            engine.set(w_pad=0.02, h_pad=0.02)
        axes: list[Axes] = list(self.figure.subplots(rows, columns, squeeze=False, **grid).flat)
        for axis in axes[num:]:
            axis.remove()
        return axes[:num]

    def say(self, axis: "Axes", notes: Sequence[str]) -> None:
        """Write how to read the figure above an axis; in papers, whose panels are narrow, above the legend.

        Args:
            axis: the axis.
            notes: texts of a line each.
        """
        if self.is_paper and not self.given:
            self.notes = tuple(notes)
        elif notes:
            axis.set_title("\n".join(notes), fontsize=self.small, color="#606060")

    def legend(self, handles: Sequence[Any], labels: Sequence[str], title: str = "") -> None:
        """Add a legend beside the data: right of them, in papers below.

        Args:
            handles: artists.
            labels: their labels, escaped.
            title: title of the legend; empty for none.
        """
        assert self.figure is not None
        if not handles:
            return
        title = "\n".join(filter(None, (*self.notes, title)))
        style: dict[str, Any] = {"frameon": False, "title": title or None, "fontsize": self.small, "handlelength": 2.6}
        entry = _HANDLE * (0.8 if self.is_paper else 1) + self.small * _CHARACTER * max(map(len, labels))
        of_title = self.small * _CHARACTER * max(map(len, title.split("\n")))
        if self.given:
            at: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
            self.given[-1].legend(handles, labels, **at, **style)
        elif self.is_paper:
            width, height = self.figure.get_size_inches()
            columns = max(1, min(len(labels), int((width - 0.1) / (entry + 0.1))))
            rows = -(-len(labels) // columns) + (title.count("\n") + 1 if title else 0)
            self.figure.set_size_inches(width, height + 0.1 + 0.145 * rows)
            style |= {"columnspacing": 1.0, "borderaxespad": 0.1}
            self.figure.legend(handles, labels, loc="outside lower center", ncols=columns, **style)
        else:
            columns = -(-len(labels) // _PER_LEGEND_COLUMN)
            width, height = self.figure.get_size_inches()
            rows = -(-len(labels) // columns) + (title.count("\n") + 1 if title else 0)
            self.figure.set_size_inches(
                width + max((entry + 0.25) * columns, of_title + 0.3), max(height, 0.3 + 0.19 * rows)
            )
            self.figure.legend(handles, labels, loc="outside right upper", ncols=columns, **style)


@contextmanager
def sheet(style: Style, ax: Any) -> Iterator[Sheet]:
    """Open a sheet; matplotlib's settings are those of the style until it is closed.

    Args:
        style: "default", "paper" (3.3 inches wide, a column) or "paper-wide" (6.9 inches, a page's text).
        ax: axes of the caller's, one or several, or None for a new figure.

    Yields:
        The sheet.

    Raises:
        UsageError: if `ax` holds anything but axes.
    """
    from matplotlib import rc_context
    from matplotlib.axes import Axes

    given = () if ax is None else tuple(np.ravel(np.asarray(ax, dtype=object)))
    if wrong := [type(each).__name__ for each in given if not isinstance(each, Axes)]:
        raise UsageError(f"ax holds a {wrong[0]}: give matplotlib axes, one or a sequence of them")
    if ax is not None and not given:
        raise UsageError("ax holds no axes: give as many as the figure has panels, or None for a new figure")
    with rc_context(_PAPER if style != "default" else {}):  # type: ignore[arg-type]
        yield Sheet(style, given)


def _save(figure: "Figure", *arguments: Any, **options: Any) -> None:
    from matplotlib import rc_context

    with rc_context(_EMBEDDED):  # type: ignore[arg-type]
        type(figure).savefig(figure, *arguments, **options)
