"""Figure of a search. The function returns a matplotlib Figure; see `plots.py` for what all of them take."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fipray.analysis.drawing import COLOURS, GREY, bars, dress, plain
from fipray.analysis.intervals import wilson
from fipray.analysis.results import Results
from fipray.analysis.sheet import Sheet, Style, sheet
from fipray.analysis.shown import Names, chosen
from fipray.analysis.summary_table import WORST
from fipray.analysis.table import NO_ATTACK
from fipray.analysis.trial_frames import CONFIG, GIVEN_UP, NOT_FINITE, front_of
from fipray.analysis.trials import judged_trials
from fipray.border import checked
from fipray.errors import UsageError
from fipray.printable import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WORDS = {
    "functional_distance_held_out": "functional distance\n(held-out)",
    "functional_distance": "functional distance\n(anchors)",
    "robust_accuracy": "robust accuracy, %",
    "clean_accuracy": "clean accuracy, %",
    "objective_value": "objective",
}
_PERCENT = ("robust_accuracy", "clean_accuracy")
_ORDINARY, _FRONT, _LOST = "trial", "Pareto front", "given up or not finite"


@checked
def plot_trials(
    results: Results,
    *,
    objectives: Mapping[str, str] | None = None,
    names: Names = None,
    ax: Any = None,
    style: Style = "default",
) -> "Figure":
    """Trials of a search: each objective against each searched field, and against the first objective.

    Trials on the Pareto front are filled; crosses are trials that were given up, or came to values that are not finite,
    as they were when they ended. The step line is the front: no trial is better in both. Bars are Wilson's 95 %
    intervals of accuracies. Fields that were searched on a logarithmic scale are drawn on one; values without an order
    of numbers stand side by side.

    Args:
        results: results of a search.
        objectives: columns as of `judged_trials`, each with "min" or "max"; None for the objectives of the search.
        names: searched fields to show, in order, or labels by field; None for all.
        ax: axes to draw on, one per panel, row by row; None for a new figure.
        style: "default", "paper" or "paper-wide".

    Returns:
        The figure: a row per objective, a column per searched field and, for two objectives or more, one for the front.

    Raises:
        UsageError: for results of a study, without trials, and for unknown objectives and fields.
    """
    objectives = dict(objectives or results.objectives)
    trials = _drawn(results, objectives)
    known = [column.removeprefix(CONFIG) for column in trials if column.startswith(CONFIG)]
    fields = chosen(names, known, "searched fields")
    targets = list(objectives)
    # The first objective against itself says nothing.
    panels = [(target, field) for target in targets for field in fields]
    panels += [(target, targets[0]) for target in targets[1:]]
    logarithmic = _logarithmic(results)
    with sheet(style, ax) as page:
        # A row per objective, where the page is wide enough.
        columns = 2 if style == "paper" else max(2, min(4, len(fields)))
        height = {"default": 2.9, "paper": 1.6, "paper-wide": 1.75}[style] * -(-len(panels) // columns)
        axes = page.axes(len(panels), (3.1 * min(columns, len(panels)), height), columns=columns)
        for axis, (target, field) in zip(axes, panels, strict=True):
            is_front = field == targets[0] and field not in fields
            words = _words(field, objectives, page) if is_front else _in_two(plain(fields[field]), page)
            dress(axis, xlabel=words, ylabel=_words(target, objectives, page))
            if is_front:
                _stairs(axis, trials[trials["on_front"]], field, target, objectives)
                values = _percent(trials, field)
            else:
                values = _along(axis, trials[CONFIG + field], field in logarithmic, page)
            _marks(axis, trials, values, target)
        page.legend(*_handles(axes))
    assert page.figure is not None
    return page.figure


def _in_two(name: str, page: Sheet) -> str:
    """Break the dotted name of a field that is too long for a panel of a paper."""
    return name.replace(".", ".\n") if page.is_paper and len(name) > 16 else name


def _along(axis: "Axes", column: "pd.Series[Any]", is_logarithmic: bool, page: Sheet) -> NDArray[np.float64]:
    """Set up the axis of a searched field; the same limits for all objectives. Return the places of the trials."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    places, labels = positions(column)
    values = np.asarray(places, float)
    if labels is not None:
        axis.set_xticks(range(len(labels)), [page.short(label) for label in labels])
        axis.set_xlim(-0.5, len(labels) - 0.5)
        if max(map(len, labels)) > 6:
            axis.tick_params(axis="x", rotation=90)
    elif is_logarithmic and (values > 0).all():
        least, most = values.min(), values.max()
        axis.set_xscale("log")
        axis.set_xlim(least / (most / least) ** 0.06 / 1.02, most * (most / least) ** 0.06 * 1.02)
        # Less than two decades hold one power of ten at most, which is no scale.
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if most / least >= 100 else (1.0, 3.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.06 * (values.max() - values.min()) or 0.5
        axis.set_xlim(values.min() - margin, values.max() + margin)
    return values


def positions(column: "pd.Series[Any]") -> tuple[Any, list[str] | None]:
    """Places of the values of a searched field on an axis.

    Args:
        column: values of a field, as JSON held them.

    Returns:
        Numbers, and None; or for few different numbers or anything else the ranks of the values, and their names.
    """
    is_number = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in column]
    if all(is_number):
        # Of a choice among few, such as 0.9, 0.99 and 0.999, a linear axis would show one.
        if column.nunique() > 5 or len(column) <= 2 * column.nunique():
            return column.astype(float), None
        values = sorted(set(column))
        return column.map({value: place for place, value in enumerate(values)}), [f"{value:g}" for value in values]
    texts = column.map(_text)
    known = sorted(set(texts))
    return texts.map({text: place for place, text in enumerate(known)}), known


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return printable(value.get("kind", json.dumps(value)))  # a spec, such as a stepper with its settings
    return printable(value if isinstance(value, str) else json.dumps(value))


def _drawn(results: Results, objectives: Mapping[str, str]) -> pd.DataFrame:
    trials = judged_trials(results)
    if trials.empty:
        raise UsageError(f"{results.address} holds no trials yet: continue the search, then draw")
    if unknown := [name for name in objectives if name not in trials]:
        raise UsageError(f"trials have no column {unknown[0]!r}; they have: {', '.join(trials)}")
    if wrong := [f"{name}: {mode!r}" for name, mode in objectives.items() if mode not in ("min", "max")]:
        raise UsageError(f"an objective is to be minimised or maximised, 'min' or 'max'; given: {', '.join(wrong)}")
    front = front_of(trials, objectives)
    robustness = results.robustness
    counts = {
        column: robustness[robustness["attack"] == attack].groupby("name")["num_examples"].max()
        for column, attack in (("robust_accuracy", WORST), ("clean_accuracy", NO_ATTACK))
    }
    return trials.assign(
        on_front=trials["path_id"].isin(front["path_id"]),
        is_lost=trials["outcome_kind"].isin([GIVEN_UP, NOT_FINITE]),
        **{f"counted {column}": trials["name"].map(own) for column, own in counts.items()},
    )


def _logarithmic(results: Results) -> set[str]:
    """Fields of which the search drew logarithms."""
    space = results.manifest["parameters"].get("space")
    try:
        domains = json.loads(space) if isinstance(space, str) else {}
    except ValueError:
        return set()
    return {field for field, domain in domains.items() if isinstance(domain, dict) and "log" in str(domain.get("kind"))}


def _words(name: str, objectives: Mapping[str, str], page: Sheet) -> str:
    words = _WORDS.get(name, page.short(name))
    better = "lower" if objectives[name] == "min" else "higher"
    return words if page.is_paper else words.replace("\n", " ") + f"\n({better} is better)"


def _percent(trials: pd.DataFrame, column: str) -> Any:
    return trials[column].to_numpy(float) * (100 if column in _PERCENT else 1)


def _marks(axis: "Axes", trials: pd.DataFrame, at: Any, target: str) -> None:
    values = _percent(trials, target)
    if target in _PERCENT:
        low, high = wilson(trials[target], trials[f"counted {target}"])
        bars(axis, at, 100 * low, 100 * high, GREY, linewidth=0.7)
    on_front, is_lost = trials["on_front"].to_numpy(bool), trials["is_lost"].to_numpy(bool)
    styles: list[tuple[NDArray[np.bool_], str, str, dict[str, Any]]] = [
        (is_lost, "x", _LOST, {"color": GREY}),
        (~is_lost & ~on_front, "o", _ORDINARY, {"color": COLOURS[0], "markerfacecolor": "white"}),
        (on_front, "o", _FRONT, {"color": COLOURS[0]}),
    ]
    for chosen_ones, marker, label, style in styles:
        if chosen_ones.any():
            axis.plot(at[chosen_ones], values[chosen_ones], marker, markersize=4.5, label=label, **style)


def _stairs(axis: "Axes", front: pd.DataFrame, x: str, y: str, objectives: Mapping[str, str]) -> None:
    """Draw the front as a step line: what is reached when both objectives may be worse."""
    places = np.unique(np.stack([_percent(front, x), _percent(front, y)], axis=1), axis=0)
    if len(places) > 1 and len(objectives) == 2:
        # Between two trials of the front only the worse value of both is reached.
        where: Literal["post", "pre"] = "post" if objectives[x] == "min" else "pre"
        axis.step(*places.T, where=where, color=COLOURS[0], linewidth=0.9, zorder=1)


def _handles(axes: "Sequence[Axes]") -> tuple[list[Any], list[str]]:
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    return list(found.values()), list(found)
