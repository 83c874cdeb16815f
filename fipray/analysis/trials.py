"""Trials of a search: values, measures at the end of each path, and the Pareto front as a table for the terminal."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from fipray.analysis.results import Results
from fipray.analysis.trial_frames import CONFIG, GIVEN_UP, NOT_FINITE, with_ends
from fipray.border import checked
from fipray.printable import printable

if TYPE_CHECKING:
    from rich.table import Table


@checked
def judged_trials(results: Results) -> pd.DataFrame:
    """Trials of a search, with the measures at the end of their paths.

    Args:
        results: results of a search.

    Returns:
        The rows of `results.trials`, with measures of `paths`, the `gain` of `points`, user-defined measures, and
        `robust_accuracy` under the worst attack, NaN for paths that were not attacked.
    """
    return with_ends(results.frames)


def table_of_trials(results: Results) -> "Table":
    """Pareto front of the trials, for the terminal.

    Args:
        results: results of a search.

    Returns:
        A rich table: a row per trial on the front, a column per searched field and objective.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    objectives, front = results.objectives, results.pareto()
    fields = [column for column in front if column.startswith(CONFIG)]
    kinds, num_steps = results.trials["outcome_kind"].value_counts(), results.trials["num_steps"].sum()
    notes = [
        f"{kinds.get(GIVEN_UP, 0)} given up",
        *([f"{kinds[NOT_FINITE]} not finite"] if NOT_FINITE in kinds else []),
    ]
    title = f"front of {len(results.trials)} trials ({', '.join(notes)}), {num_steps} steps"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left")
    table.add_column("name", overflow="fold")
    for header in [*(field.removeprefix(CONFIG) for field in fields), *(f"{n} ({m})" for n, m in objectives.items())]:
        table.add_column(Text(printable(header)), justify="right", overflow="fold")
    for row in front.to_dict("records"):
        cells = [row["name"], *(_cell(row[column]) for column in [*fields, *objectives])]
        # Text instead of str: rich would interpret square brackets in a name as markup.
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("kind"))  # a spec, such as a stepper with its settings
    return f"{value:.4g}" if isinstance(value, float) else str(value)
