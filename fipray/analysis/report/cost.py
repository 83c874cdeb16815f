"""Section on cost: seconds by kind of work, steps, and attempts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from fipray.analysis.report.content import Chart, Limits, Section, Table, rounded
from fipray.analysis.report.side import Side, columns_of, together
from fipray.analysis.report.wording import count, duration, listing, spread
from fipray.analysis.summary_table import WORST
from fipray.analysis.table import NO_ATTACK

_COLUMNS = ("name", "num_steps", "walk_seconds", "seconds_per_step", "attempt", "host", "device", "anchor_bytes",
            "memory_bytes")  # fmt: skip
_ROUNDS = ("name", "round", "num_rounds", "step", "outcome_kind", "seconds", "attempt", "host", "device")


def cost(sides: Sequence[Side], limits: Limits) -> Section | None:
    """Seconds of paths and evaluations, steps, and repeated attempts.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if no work is committed yet.
    """
    spent = {side.label: {what: sum(seconds) for what, seconds in _seconds(side).items()} for side in sides}
    if not any(map(sum, (each.values() for each in spent.values()))):
        return None
    paths = together(sides, lambda side: side.results.paths)
    paths["seconds_per_step"] = paths["walk_seconds"] / paths["num_steps"].where(paths["num_steps"] > 0)
    tables = (
        [
            Table(
                "cost",
                "Cost of the paths",
                columns_of(sides, paths, _COLUMNS, walk_seconds="seconds", seconds_per_step="seconds"),
            )
        ]
        if len(paths)
        else []
    )
    rounds = together(sides, lambda side: side.results.rounds)
    if len(rounds):
        tables.append(
            Table("rounds", "Rounds of cooperating paths", columns_of(sides, rounds, _ROUNDS, seconds="seconds"))
        )
    chart = Chart("bars", "Seconds by kind of work", " ".join(_reading(spent, paths)), _bars(spent))
    sentences = ["Seconds are added over workers: with several at once the run took less."]
    return Section("cost", "Cost", [*sentences, *_attempts(paths)], [chart], tables)


def _seconds(side: Side) -> dict[str, "pd.Series[Any]"]:
    results = side.results
    # `worst` is the sum of the attacks of an evaluation, whose seconds would count twice otherwise.
    evaluated = results.robustness[results.robustness["attack"].isin([WORST, NO_ATTACK])]
    return {
        "paths": results.paths["walk_seconds"],
        "attacks": evaluated["seconds"],
        "transfer": results.transfer["seconds"],
        "measures": results.measures["seconds"],
    }


def _bars(spent: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    rows = [what for what in next(iter(spent.values())) if any(each[what] for each in spent.values())]
    pairs = [(row, series) for series in range(len(spent)) for row in range(len(rows))]
    values = [list(spent.values())[series][rows[row]] for row, series in pairs]
    return {
        "rows": rows,
        "x": "seconds",
        "series": [{"name": name} for name in spent],
        "row": [row for row, _ in pairs],
        "of": [series for _, series in pairs],
        "value": rounded(values),
        "shown": [duration(value) for value in values],
    }


def _reading(spent: Mapping[str, Mapping[str, float]], paths: pd.DataFrame) -> Iterator[str]:
    totals = {name: sum(each.values()) for name, each in spent.items()}
    parts = [f"{duration(total)} in {name}" if len(totals) > 1 else duration(total) for name, total in totals.items()]
    yield f"In all {listing(parts)}."
    if len(paths):
        known = paths["seconds_per_step"].dropna()
        rate = f", {spread(known, duration)} a step" if len(known) else ""
        yield f"{count(len(paths), 'path')} took {spread(paths['walk_seconds'], duration)}{rate}."


def _attempts(paths: pd.DataFrame) -> Iterator[str]:
    again = paths[paths["attempt"] > 1]
    hosts = paths["host"].nunique()
    if len(again):
        names = listing(again["name"])
        yield f"{count(len(again), 'path')} took more than one attempt: {names} (at most {again['attempt'].max()})."
    elif len(paths):
        yield f"Every path was traced in its first attempt, on {count(hosts, 'machine')}."
