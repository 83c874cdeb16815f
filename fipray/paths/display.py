"""Tables and line charts as text, HTML and SVG: how notebooks show a path or a problem."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from fipray.printable import printable

# One panel of a chart, in pixels of the SVG's own coordinates: its size, and the margins around the plotted area.
WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 30, 46
# Blue and vermilion of the Okabe-Ito palette; dashes separate the curves where colours cannot.
COLOURS, DASHES = ("#0072b2", "#d55e00"), ("none", "5 3")


def listing(title: str, rows: Mapping[str, str]) -> str:
    """Format a table as plain text.

    Args:
        title: first line.
        rows: values by their names.

    Returns:
        One line for the title and one for each row.
    """
    width = max(map(len, rows), default=0)
    return "\n".join([printable(title), *(f"  {printable(name):{width}}  {printable(rows[name])}" for name in rows)])


def table(title: str, rows: Mapping[str, str]) -> str:
    """Format a table as HTML.

    Args:
        title: caption.
        rows: values by their names; all text is escaped.

    Returns:
        A table with one row for each name.
    """
    body = "".join(
        f'<tr><th scope="row" style="text-align:left">{_text(name)}</th>'
        f'<td style="text-align:left">{_text(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{_text(title)}</caption><tbody>{body}</tbody></table>"


def charts(steps: Sequence[int], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Draw line charts against the step, side by side.

    Args:
        steps: steps [K] of the points, ascending.
        panels: for each label of a vertical axis up to two curves by their names, with K values each. Values that are
            not finite are left out.

    Returns:
        An SVG element. Each panel has the same horizontal axis, and a vertical axis from its least to its greatest
        value.
    """
    drawn = "".join(
        _panel(number * WIDTH, label, steps, curves) for number, (label, curves) in enumerate(panels.items())
    )
    width = WIDTH * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}" '
        f'role="img" font-family="sans-serif" font-size="11" fill="currentColor" stroke="none">'
        f"<title>{_text(' and '.join(panels))} against the step</title>{drawn}</svg>"
    )


def _panel(left: int, label: str, steps: Sequence[int], curves: Mapping[str, Sequence[float]]) -> str:
    """One chart whose upper left corner is at (`left`, 0)."""
    first_x, last_x, first_y, last_y = left + LEFT, left + WIDTH - RIGHT, HEIGHT - BOTTOM, TOP
    values = [value for curve in curves.values() for value in curve if math.isfinite(value)]
    low_step, high_step = steps[0], max(steps[-1], steps[0] + 1)
    low, high = _range(values)
    low_text, high_text = _distinct(low, high)
    parts = [
        f'<path d="M{first_x} {last_y}V{first_y}H{last_x}" fill="none" stroke="currentColor"/>',
        _label(first_x, first_y + 16, f"{low_step}"),
        _label(last_x, first_y + 16, f"{high_step}"),
        _label((first_x + last_x) // 2, first_y + 34, "step"),
        _label(first_x - 5, first_y, low_text, "end"),
        _label(first_x - 5, last_y + 8, high_text, "end"),
        f'<g transform="rotate(-90 {left + 14} {(first_y + last_y) // 2})">'
        f"{_label(left + 14, (first_y + last_y) // 2, label)}</g>",
    ]
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number]
        stroke = f'fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{DASHES[number]}"'
        places = [
            (
                first_x + (step - low_step) / (high_step - low_step) * (last_x - first_x),
                first_y + (value - low) / (high - low) * (last_y - first_y),
            )
            for step, value in zip(steps, curve, strict=True)
            if math.isfinite(value)
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" {stroke}/>')
        # A polyline through a single point is invisible.
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in places]
        if len(curves) > 1:
            start = first_x + number * 110
            parts.append(f'<path d="M{start} 12h24" {stroke}/>')
            parts.append(_label(start + 28, 16, name, "start"))
    return "".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis; equal values lie in the middle of it."""
    if not values:
        return 0.0, 1.0
    low, high = float(min(values)), float(max(values))
    if low == high:
        margin = abs(low) / 2 or 0.5
        return low - margin, high + margin
    return low, high


def _distinct(low: float, high: float) -> tuple[str, str]:
    """Two different numbers with as many digits, three or more, as it takes to tell them apart."""
    texts = [(f"{low:.{digits}g}", f"{high:.{digits}g}") for digits in range(3, 9)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[0])


def _label(x: int, y: int, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{_text(text)}</text>'


def _text(text: str) -> str:
    return html.escape(printable(text))
