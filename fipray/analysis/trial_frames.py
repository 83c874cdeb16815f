"""Frames of search trials: searched values as columns, measures at the end of each path, and the Pareto front."""

import json
from collections.abc import Mapping

import pandas as pd

from fipray.analysis.pareto import pareto
from fipray.errors import UsageError

CONFIG = "config."  # prefix of the columns with searched values
# Repeated from the floors that trace paths, since importing these would load torch.
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
    """Add a column for each searched field, such as `config.radius.tolerance`.

    Args:
        trials: rows of the table `trials`.

    Returns:
        The rows with further columns; a value is whatever JSON held.
    """
    config = pd.DataFrame([json.loads(text) for text in trials["config_json"]], index=trials.index)
    # With a prefix, because fields such as `num_steps` are columns of trials, too.
    return trials.join(config.add_prefix(CONFIG))


def with_ends(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join trials with the measures at the end of their paths.

    Args:
        frames: the tables `trials` (see `with_config`), `paths`, `points`, `point_measures` and `robustness`.

    Returns:
        The trials with measures of `paths`, the `gain` of `points`, user-defined measures, and `robust_accuracy` under
        the worst attack, NaN for paths that were not attacked.
    """
    paths = frames["paths"].set_index("path_id")[list(_MEASURED)]
    # Rows are sorted by path and step, so the last row of a path is its end.
    gains = frames["points"].drop_duplicates("path_id", keep="last").set_index("path_id")["gain"]
    robustness = frames["robustness"]
    worst = robustness[robustness["attack"] == "worst"].set_index("name")["robust_accuracy"]
    ends = frames["point_measures"].drop_duplicates(["path_id", "measure"], keep="last")
    own = [ends.pivot(index="path_id", columns="measure", values="value")] if len(ends) else []
    trials = frames["trials"]
    for each in (paths, gains, *own):
        trials = trials.join(each, on="path_id")
    return trials.join(worst, on="name")


def front_of(trials: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Pareto front of the trials whose path came to its end with finite values.

    Args:
        trials: trials with their ends, see `with_ends`.
        objectives: columns to compare, each with "min" or "max".

    Returns:
        The trials that no other one dominates, sorted by the first objective, best first.

    Raises:
        UsageError: for objectives that are no columns.
    """
    ended = trials[~trials["outcome_kind"].isin([GIVEN_UP, NOT_FINITE])]
    if unknown := [name for name in objectives if name not in ended]:
        raise UsageError(f"trials have no column {unknown[0]!r}; they have: {', '.join(ended)}")
    higher = ended.assign(**{f"better {n}": ended[n] * (1 if m == "max" else -1) for n, m in objectives.items()})
    better = [f"better {name}" for name in objectives]
    return pareto(higher, better).sort_values(better[0], ascending=False, ignore_index=True).drop(columns=better)
