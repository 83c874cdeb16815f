"""Figures of paths. Each function returns a matplotlib Figure; `.savefig(file)` writes it, and none is shown.

matplotlib is imported when the first figure is made. Colours are those of Okabe and Ito (2008), which are distinct for
colour-blind readers; lines and markers tell neighbours apart in grey, too.

All take `ax`: axes to draw on, as many as the figure has panels, in place of a new figure; `names`: what is shown, in
order, or new names by old ones; and `style`: "paper" for the width of a column (3.3 inches) and "paper-wide" for that
of a page (6.9 inches), with text of 7 and 8 points and fonts that are embedded in PDF files.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from fipray.analysis.drawing import FEW, band, bars, curve, dress, look, plain
from fipray.analysis.intervals import spread, wilson
from fipray.analysis.results import Results
from fipray.analysis.runs import on_one_grid
from fipray.analysis.sheet import Style, sheet
from fipray.analysis.shown import Names, Seeds, Shown, SomeResults, band_note, counted, told_apart
from fipray.analysis.summary_table import WORST
from fipray.analysis.table import NO_ATTACK, summary
from fipray.analysis.variants import judged_variants
from fipray.border import checked
from fipray.errors import UsageError
from fipray.printable import epsilon_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X: TypeAlias = Literal["step", "fraction", "seconds"]
_X_LABELS = {
    "step": "step",
    "fraction": "fraction of the path's steps",
    "seconds": "wall-clock time since the path began, s",
}
_PANELS = {
    "functional_distance": "functional distance to the path's start\n(Fisher-Rao: radian)",
    "objective_value": "objective, lower is better\n(in the objective's own unit)",
    "sparsity": "sparsity\n(fraction of weights that are zero)",
    "clean_accuracy": "clean accuracy, %",
}
_SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_TICK_INCHES = 0.4  # room for the label of a sparsity


@checked
def plot_points(
    results: SomeResults,
    *,
    quantities: Sequence[str] | None = None,
    x: X = "step",
    names: Names = None,
    seeds: Seeds = "interval",
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Functional distance, objective, sparsity and clean accuracy of the points of each path.

    The last marker of a line is the end of its path; a path with fewer than three points has markers and no line. The
    distance on anchor inputs is drawn, too, and accuracies have Wilson's 95 % intervals (if the study was evaluated, so
    that the number of test inputs is known), if there are no more lines than colours. Quantities that were not measured
    have no panel.

    Paths that differ in nothing but their seed (in one study, or in studies that differ in their parameter `seed`) are
    one line, their mean, with a band. It ends where the first of them ends; between saved points, which may differ,
    each path is interpolated linearly.

    Args:
        results: results of a study, or of several: a sequence, or a mapping by label.
        quantities: panels to draw, of "functional_distance", "objective_value", "sparsity" and "clean_accuracy"; None
            for all that were measured.
        x: "step", "fraction" (step divided by the path's last step) or "seconds" (wall-clock time), to compare paths
            of different length.
        names: names of paths to show, in order, or labels by name. For a sequence of several results, a sequence of
            names labels these results.
        seeds: band of paths that differ in their seed: "interval" for the 95 % interval of the mean (Student's t; of
            two runs it is 13 standard errors to either side), "range" for least and greatest; "each" for a line each.
        ax: axes to draw on, one per panel; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure: a panel per quantity, a line per path or group of paths.

    Raises:
        UsageError: if there are no points yet, for quantities that were not measured, and for unknown names.
    """
    shown = Shown.of(results, names, seeds)
    points = shown.rows(_points, "points")
    panels = _panels(points, quantities)
    lines = list(points.groupby("label", sort=False))
    has_both = len(lines) <= FEW
    with sheet(style, ax) as page:
        columns = 1 if style == "paper" else min(2, len(panels))
        height = {"default": 3.5, "paper": 1.55, "paper-wide": 1.9}[style] * -(-len(panels) // columns)
        axes = page.axes(len(panels), (5 * columns, height), columns=columns)
        for number, (axis, quantity) in enumerate(zip(axes, panels, strict=True)):
            is_above = page.is_paper and not page.given and number + columns < len(panels)
            dress(axis, xlabel="" if is_above else _X_LABELS[x], ylabel=_label(quantity, page.is_paper))
        for number, (label, runs) in enumerate(lines):
            for axis, quantity in zip(axes, panels, strict=True):
                named = counted(page.short(str(label)), runs["path"].nunique())
                _line(axis, runs, (x, quantity, seeds), has_both, look(number) | {"label": named})
        notes = ["thick: held-out inputs; thin: anchors"] if has_both and "functional_distance" in panels else []
        if points.groupby("label")["path"].nunique().max() > 1:
            notes.append(band_note(seeds))
        page.say(axes[0], notes)
        page.legend(*axes[0].get_legend_handles_labels(), title="" if page.notes else "path")
    assert page.figure is not None
    return page.figure


def _points(results: Results) -> pd.DataFrame:
    points = results.points
    last = points.groupby("path_id")["step"].transform("max")
    judged = results.robustness[results.robustness["attack"] == NO_ATTACK]["num_examples"]
    return points.assign(
        name=told_apart(points),
        path=points["path_id"],
        fraction=points["step"] / last.where(last > 0, 1),
        # On all test inputs, as is the evaluation without an attack; else nothing says how many there are.
        num_test=float(judged.max()) if len(judged) else np.nan,
        on_anchors=points["functional_distance"],
        functional_distance=points["functional_distance_held_out"].fillna(points["functional_distance"]),
    )


def _panels(points: pd.DataFrame, wanted: Sequence[str] | None) -> list[str]:
    measured = [quantity for quantity in _PANELS if points[quantity].notna().any()]
    wanted = (wanted,) if isinstance(wanted, str) else wanted
    if unknown := [quantity for quantity in wanted or () if quantity not in measured]:
        raise UsageError(f"no {unknown[0]!r} was measured along these paths; there are: {', '.join(measured)}")
    return list(measured if wanted is None else wanted) or measured


def _label(quantity: str, is_paper: bool) -> str:
    # In a paper the caption says what the unit is.
    return _PANELS[quantity].partition("\n")[0].replace(" to the path's start", "") if is_paper else _PANELS[quantity]


def _line(axis: "Axes", rows: pd.DataFrame, what: tuple[str, str, str], has_both: bool, style: dict[str, Any]) -> None:
    """Draw one path, or the mean of several, with its band."""
    x, quantity, seeds = what
    factor = 100 if quantity == "clean_accuracy" else 1
    runs = [run for _, run in rows.groupby(["result", "path"], sort=False)]
    at, values = on_one_grid(runs, x, quantity)
    means = values.mean(axis=0)
    weight = {"linewidth": 1.6, "markersize": 4.0} if has_both else {"linewidth": 1.1, "markersize": 4.0}
    curve(axis, at, factor * means, sparse=not has_both, **style, **weight)
    if len(runs) > 1:
        low, high = spread(values, seeds)
        least, most = (0, 1) if quantity in ("clean_accuracy", "sparsity") else (-np.inf, np.inf)
        if quantity == "functional_distance":
            least = 0
        band(axis, at, factor * np.clip(low, least, most), factor * np.clip(high, least, most), style["color"])
    elif quantity == "clean_accuracy" and has_both:
        low, high = wilson(means, runs[0]["num_test"])
        band(axis, at, 100 * low, 100 * high, style["color"])
    if quantity == "functional_distance" and has_both:
        at, anchors = on_one_grid(runs, x, "on_anchors")
        thin = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 0.7, "alpha": 0.7}
        if len(at) > 2:  # two points have no line
            axis.plot(at, anchors.mean(axis=0), **thin)


@checked
def plot_sparsity(
    results: SomeResults,
    *,
    names: Names = None,
    seeds: Seeds = "interval",
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Accuracy of the variants of each path over their sparsity: clean, and under the worst of all attacks.

    Sparsity s is drawn at -log10(1 - s), so that the range close to 1 is readable. The base stands at sparsity 0. Bars
    are Wilson's 95 % intervals. Paths that differ in their seed alone are one line, their mean, as in `plot_points`.

    Args:
        results: results of a study, or of several: a sequence, or a mapping by label.
        names: names of paths to show, in order, or labels by name. For a sequence of several results, a sequence of
            names labels these results.
        seeds: "interval", "range" or "each", see `plot_points`.
        ax: axes to draw on; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure: a colour and marker per path; solid lines and filled markers for clean accuracy, broken lines and
        hollow markers for accuracy under attack.

    Raises:
        UsageError: if there are no variants yet, and for unknown names.
    """
    variants = Shown.of(results, names, seeds).rows(_variants_from_base, "sparse variants")
    threats = list(dict.fromkeys(variants["threat"].dropna()))
    with sheet(style, ax) as page:
        (axis,) = page.axes(1, (7.0, 4.5 * page.scale))
        for number, (label, rows) in enumerate(variants.groupby("label", sort=False)):
            own, num_runs = look(number) | {"markersize": 4}, rows["path"].nunique()
            name = page.short(str(label))
            clean = rows.drop_duplicates(["path", "target_sparsity"])
            of_all = (clean["clean_accuracy"], clean["num_test"], f"{name}, clean")
            drawn = [(clean, *of_all, {"linestyle": "-"})]
            for threat, line in zip(threats, ("--", ":", "-.") * len(threats), strict=False):
                some = rows[rows["threat"] == threat]
                what = f"{name}, under attack" + (f" {threat}" if len(threats) > 1 else "")
                hollow = {"linestyle": line, "markerfacecolor": "white"}
                drawn.append((some, some["robust_accuracy"], some["num_attacked"], what, hollow))
            for some, accuracy, num_examples, what, style_of_line in drawn:
                if accuracy.notna().any():
                    means = _accuracies(some, accuracy, num_examples, seeds)
                    at = _stretched(means["sparsity"])
                    curve(axis, at, 100 * means["mean"], **{**own, **style_of_line}, label=counted(what, num_runs))
                    bars(axis, at, 100 * means["low"], 100 * means["high"], own["color"])
        ticks = _ticks(variants["sparsity"].max(), 2.3 if style == "paper" else 5.5)
        axis.set_xticks(_stretched(ticks), [f"{tick:g}" for tick in ticks])
        title = f"under attack: {plain(threats[0])}" if len(threats) == 1 else ""
        label = "sparsity" if page.is_paper else "sparsity (fraction of weights that are zero)"
        dress(axis, xlabel=label, ylabel="accuracy, %", title=title)
        page.legend(*axis.get_legend_handles_labels())
    assert page.figure is not None
    return page.figure


def _variants_from_base(results: Results) -> pd.DataFrame:
    """Variants with their accuracies, and for each path the base at sparsity 0."""
    variants = judged_variants(results)
    if variants.empty:
        return variants
    robustness = results.robustness
    num_test = robustness[robustness["attack"] == NO_ATTACK]["num_examples"].max()
    variants = variants.assign(
        name=told_apart(variants), path=variants["path_id"], num_test=num_test, num_attacked=variants["num_examples"]
    )
    variants["threat"] = [
        f"{norm}, epsilon {epsilon_text(epsilon)}" if pd.notna(epsilon) else None
        for norm, epsilon in zip(variants["norm"], variants["epsilon"], strict=True)
    ]
    base = summary(results).query("kind == 'base'")
    if base.empty:
        return variants
    worst = robustness[(robustness["name"] == base["name"].iloc[0]) & (robustness["attack"] == WORST)]
    by_threat = worst.set_index(["norm", "epsilon"])["robust_accuracy"]
    starts = variants.drop_duplicates(["path", "threat"]).assign(
        target_sparsity=0.0, sparsity=0.0, clean_accuracy=base["clean_accuracy"].iloc[0]
    )
    starts["robust_accuracy"] = [
        by_threat.get((norm, epsilon), np.nan) for norm, epsilon in zip(starts["norm"], starts["epsilon"], strict=True)
    ]
    both = pd.concat([starts, variants], ignore_index=True)
    # The order of the paths is that of their names, and within one the sparsity rises.
    place = {path: number for number, path in enumerate(dict.fromkeys(variants["path"]))}
    return both.assign(place=both["path"].map(place)).sort_values(["place", "sparsity"], kind="stable")


def _accuracies(rows: pd.DataFrame, accuracy: "pd.Series[Any]", num_examples: Any, seeds: str) -> pd.DataFrame:
    """Mean accuracy and its interval at each requested sparsity."""
    found = []
    for _, own in rows.assign(accuracy=accuracy, counted=num_examples).groupby("target_sparsity"):
        own = own[own["accuracy"].notna()]
        if len(own) > 1:
            low, high = (float(np.clip(bound, 0, 1)) for bound in spread(own["accuracy"], seeds))
        elif len(own):
            low, high = (float(bound[0]) for bound in wilson(own["accuracy"], own["counted"]))
        else:
            continue
        found.append((own["sparsity"].mean(), own["accuracy"].mean(), low, high))
    return pd.DataFrame(found, columns=["sparsity", "mean", "low", "high"])


def _ticks(most: float, inches: float) -> list[float]:
    """Sparsities whose labels do not overlap."""
    ticks = [tick for tick in _SPARSITIES if tick <= most + 1e-9]
    end = float(_stretched([most])[0]) or 1.0
    kept: list[float] = []
    for tick in ticks:
        place = float(_stretched([tick])[0]) / end * inches
        if not kept or place - float(_stretched(kept[-1:])[0]) / end * inches >= _TICK_INCHES:
            kept.append(tick)
    return kept


def _stretched(sparsities: Any) -> Any:
    # A sparsity of 1 would lie at infinity.
    return -np.log10(np.maximum(1 - np.array(sparsities), 1e-4))
