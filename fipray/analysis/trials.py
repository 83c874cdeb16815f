"""Trials of a search: what was tried, what became of it, and which trials no other beats."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from fipray.analysis.pareto import pareto
from fipray.border import checked
from fipray.errors import UsageError
from fipray.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from fipray.analysis.results import Results

CONFIG = "config."
GIVEN_UP, NOT_FINITE = "given up", "not finite"
_MEASURED = (
    "sparsity",
    "functional_distance",
    "functional_distance_held_out",
    "objective_value",
    "clean_accuracy",
    "outcome",
)


def with_config(trials: pd.DataFrame) -> pd.DataFrame:
    """The table of trials with a column more for each field that was searched, such as `config.radius.tolerance`."""
    config = pd.DataFrame([json.loads(text) for text in trials["config_json"]], index=trials.index)
    return trials.join(config.add_prefix(CONFIG))


@checked
def judged_trials(results: "Results") -> pd.DataFrame:
    """The trials with what their ends are like: measures of `paths`, the `gain` of `points`, the study's own measures,
    and `robust_accuracy` under the worst attack, NaN where the end was not attacked.
    """
    paths = results.paths.set_index("path_id")[list(_MEASURED)]
    gains = results.points.drop_duplicates("path_id", keep="last").set_index("path_id")["gain"]
    worst = results.robustness[results.robustness["attack"] == "worst"].set_index("name")["robust_accuracy"]
    ends = results.point_measures.drop_duplicates(["path_id", "measure"], keep="last")
    own = [ends.pivot(index="path_id", columns="measure", values="value")] if len(ends) else []
    judged = results.trials
    for each in (paths, gains, *own):
        judged = judged.join(each, on="path_id")
    return judged.join(worst, on="name")


def objectives_of(results: "Results") -> Mapping[str, str]:
    """The objectives of the search, each with "min" or "max". Raises UsageError where the results are of none."""
    if "objectives" not in results.manifest:
        raise UsageError(f"{results.address} holds study {results.manifest['study']!r}, which is no search")
    objectives: Mapping[str, str] = results.manifest["objectives"]
    return objectives


def front_of_trials(results: "Results", objectives: Mapping[str, str] | None = None) -> pd.DataFrame:
    """The trials that walked their path to its end, finite all the way, and that no other such trial beats, the best in
    the first objective first.

    objectives: columns of `judged_trials`, each with "min" or "max"; by default those of the search.
    """
    objectives = objectives or objectives_of(results)
    trials = judged_trials(results)
    ended = trials[~trials["outcome_kind"].isin([GIVEN_UP, NOT_FINITE])]
    if unknown := [name for name in objectives if name not in ended]:
        raise UsageError(f"trials have no column {unknown[0]!r}; they have: {', '.join(ended)}")
    higher = ended.assign(**{f"better {n}": ended[n] * (1 if m == "max" else -1) for n, m in objectives.items()})
    better = [f"better {name}" for name in objectives]
    return pareto(higher, better).sort_values(better[0], ascending=False, ignore_index=True).drop(columns=better)


def table_of_trials(results: "Results") -> "Table":
    """The front of trials for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    objectives, front = objectives_of(results), front_of_trials(results)
    fields = [column for column in front if column.startswith(CONFIG)]
    kinds, num_steps = results.trials["outcome_kind"].value_counts(), results.trials["num_steps"].sum()
    said = [f"{kinds.get(GIVEN_UP, 0)} given up", *([f"{kinds[NOT_FINITE]} not finite"] if NOT_FINITE in kinds else [])]
    title = f"front of {len(results.trials)} trials ({', '.join(said)}), {num_steps} steps"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left")
    table.add_column("name", overflow="fold")
    for header in [*(field.removeprefix(CONFIG) for field in fields), *(f"{n} ({m})" for n, m in objectives.items())]:
        table.add_column(Text(printable(header)), justify="right", overflow="fold")
    for row in front.to_dict("records"):
        cells = [row["name"], *(_cell(row[column]) for column in [*fields, *objectives])]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind"))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
