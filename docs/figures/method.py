"""Figure of the page "The method in one page", computed with its equations: `python docs/figures/method.py`.

Two weights, one output: `s(w) = w2 - 0.8 sin(1.3 w1) - 0.15 w1`. The objective is the distance to a point at the
right. Predictor steps leave the level set to second order, corrector steps return to it. The drawing takes the colours
of the page.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Point = NDArray[np.float64]
WIDTH, HEIGHT, SCALE = 640, 330, 96.0
START, GOAL = np.array([-2.6, 0.0]), np.array([3.0, 1.9])
RADIUS, DAMPING, TOLERANCE = 1.15, 1e-3, 0.32


def level(x: float) -> float:
    """Second weight at which the output is 0, by the first."""
    return 0.8 * math.sin(1.3 * x) + 0.15 * x


def output(w: Point) -> float:
    return float(w[1]) - level(float(w[0]))


def jacobian(w: Point) -> Point:
    return np.array([-0.8 * 1.3 * math.cos(1.3 * float(w[0])) - 0.15, 1.0])


def predictor(w: Point) -> Point:
    """`d = -t (l - J^T (J J^T + m)^-1 J l)`, of the length of the radius."""
    j, slope = jacobian(w), w - GOAL
    d = -(slope - j * (j @ slope) / (j @ j + DAMPING))
    return d * RADIUS / np.linalg.norm(d)


def corrector(w: Point) -> Point:
    """`e = -J^T (J J^T + m)^-1 (s(w) - s(w0))`, repeated until the output is back."""
    for _ in range(3):
        j = jacobian(w)
        w = w - j * output(w) / (j @ j + DAMPING)
    return w


def place(w: Point) -> str:
    return f"{WIDTH / 2 + SCALE * float(w[0]):.1f},{HEIGHT / 2 + 12 - SCALE * 0.8 * float(w[1]):.1f}"


def line(points: list[Point], style: str) -> str:
    return f'<polyline points="{" ".join(map(place, points))}" fill="none" {style}/>'


def text(w: Point, words: str, extra: str = "") -> str:
    x, y = place(w).split(",")
    return f'<text x="{x}" y="{y}" {extra}>{words}</text>'


def circle(w: Point, radius: float, style: str) -> str:
    x, y = place(w).split(",")
    return f'<circle cx="{x}" cy="{y}" r="{radius}" {style}/>'


def drawn() -> str:
    """Compute the path and draw it."""
    xs = np.linspace(-3.3, 3.3, 120)
    curve = [np.array([x, level(x)]) for x in xs]
    band = [np.array([x, level(x) + TOLERANCE]) for x in xs] + [
        np.array([x, level(x) - TOLERANCE]) for x in reversed(xs)
    ]
    w = np.array([START[0], level(float(START[0]))])
    points, arrows = [w], []
    for _ in range(4):
        ahead = w + predictor(w)
        back = corrector(ahead)
        arrows += [
            line([w, ahead], 'stroke="var(--md-accent-fg-color, teal)" stroke-width="2.2" marker-end="url(#tip)"'),
            line([ahead, back], 'stroke="#e8710a" stroke-width="2.2" marker-end="url(#back)"'),
        ]
        w = back
        points.append(w)
    ahead = points[0] + predictor(points[0])
    shapes = [
        f'<polygon points="{" ".join(map(place, band))}" fill="currentColor" opacity="0.08"/>',
        line(curve, 'stroke="currentColor" stroke-width="1.6" opacity="0.75"'),
        *arrows,
        *(circle(each, 4.5, 'fill="var(--md-default-bg-color, white)" stroke="currentColor"') for each in points[1:]),
        circle(points[0], 5.5, 'fill="currentColor"'),
        circle(GOAL, 5, 'fill="#e8710a" opacity="0.8"'),
        text(points[0] + np.array([-0.1, 0.6]), "base network", 'text-anchor="middle"'),
        text(ahead + np.array([-0.75, -0.15]), "predictor", 'text-anchor="end" fill="var(--md-accent-fg-color, teal)"'),
        text(np.array([-0.55, -1.6]), "corrector", 'text-anchor="middle" fill="#e8710a"'),
        text(np.array([1.75, -0.5]), "level set: the same function", 'text-anchor="middle"'),
        text(np.array([1.75, -0.78]), "shaded: functional distance allowed", 'text-anchor="middle" opacity="0.75"'),
        text(GOAL + np.array([-0.15, -0.06]), "the objective is lowest here", 'text-anchor="end"'),
    ]
    tips = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="6.5" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{colour}"/></marker>'
        for name, colour in (("tip", "var(--md-accent-fg-color, teal)"), ("back", "#e8710a"))
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="A path along a level set: predictor steps leave it, corrector steps return" '
        'font-size="14" fill="currentColor" font-family="sans-serif">'
    )
    return "\n".join([head, f"<defs>{tips}</defs>", *shapes, "</svg>", ""])


if __name__ == "__main__":
    (Path(__file__).parent / "method.svg").write_text(drawn(), encoding="utf-8")
