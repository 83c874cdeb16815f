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
        columns = {"default": 4, "paper": 2, "paper-wide": 4}[style]
        rows = -(-len(panels) // columns)
        height = {"default": 2.9, "paper": 1.6, "paper-wide": 1.75}[style]
        axes = page.axes(len(panels), (3.1 * min(columns, len(panels)), height * rows), columns=columns)
        for axis, (target, field) in zip(axes, panels, strict=True):
            is_front = field == targets[0] and field not in fields
            words = _words(field, objectives, page) if is_front else plain(fields[field])
            dress(axis, xlabel=words, ylabel=_words(target, objectives, page))
            if is_front:
                values, labels = _percent(trials, field), None
                _stairs(axis, trials[trials["on_front"]], field, target, objectives)
            else:
                values, labels = positions(trials[CONFIG + field])
                if field in logarithmic and labels is None:
                    axis.set_xscale("log")
            if labels is not None:
                axis.set_xticks(range(len(labels)), [page.short(label) for label in labels])
                if max(map(len, labels)) > 6:
                    axis.tick_params(axis="x", rotation=90)
                axis.set_xlim(-0.5, len(labels) - 0.5)
            _marks(axis, trials, np.asarray(values, float), target)
        page.legend(*_handles(axes[0]))
    assert page.figure is not None
    return page.figure


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
    return f"{words}, {better} is better" if not page.is_paper and "\n" not in words else words


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


def _handles(axis: "Axes") -> tuple[Sequence[Any], Sequence[str]]:
    handles, labels = axis.get_legend_handles_labels()
    return handles, labels
