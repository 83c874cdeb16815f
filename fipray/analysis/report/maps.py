"""Sections with heat maps: transfer of adversarial examples, and accuracies on tasks along chains of paths."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fipray.analysis.report.content import Chart, Column, Kind, Limits, Section, Table, cut, rounded
from fipray.analysis.report.headline import chains
from fipray.analysis.report.side import Side, columns_of, plain, together
from fipray.analysis.report.wording import count, percent, points, threat
from fipray.analysis.series import task_series

_MOST_MAPS = 6
_THREAT = ["attack", "norm", "epsilon"]
_PERCENT: dict[str, Kind] = {"epsilon": "epsilon"}


def transfer(sides: Sequence[Side], limits: Limits) -> Section | None:
    """Heat maps of the accuracy of each network on adversarial examples that were made on each.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if transfer was not evaluated.
    """
    rows = together(sides, lambda side: side.results.transfer)
    if rows.empty:
        return None
    charts = [
        _transfer_map(side, some, str(attack), threat(str(norm), float(bound)), limits, named=len(sides) > 1)
        for side in sides
        for (attack, norm, bound), some in side.results.transfer.groupby(_THREAT, sort=False)
    ]
    columns = columns_of(sides, rows, ("source", "target", *_THREAT), **_PERCENT)
    columns.append(Column("accuracy", plain(rows["accuracy"]), "percent", num_examples=plain(rows["num_examples"])))
    table = Table("transfer", "Every pair of networks", columns)
    sentences = ["A row is the network that the adversarial examples were made on, a column the one evaluated on them."]
    return Section("transfer", "Transfer of adversarial examples", sentences, charts, [table])


def _transfer_map(
    side: Side, rows: pd.DataFrame, attack: str, threat_model: str, limits: Limits, *, named: bool
) -> Chart:
    pairs = rows.sort_values("num_examples", kind="stable").drop_duplicates(["source", "target"], keep="last")
    known = {*rows["source"], *rows["target"]}
    names = [name for name in dict.fromkeys(side.networks["name"]) if name in known]
    names += sorted(known - {*names})
    shown = names[: limits.networks]
    table = pairs.pivot(index="source", columns="target", values="accuracy").reindex(index=shown, columns=shown)
    own = pairs["source"] == pairs["target"]
    parts = {
        "made on the network itself": pairs.loc[own, "accuracy"],
        "made on another network": pairs.loc[~own, "accuracy"],
    }
    means = [f"{percent(some.mean())} on examples {what}" for what, some in parts.items() if len(some)]
    where = f"{side.label}: " if named else ""
    return Chart(
        "heat",
        f"{where}{attack}, {threat_model}",
        f"Mean accuracy: {', '.join(means)}." + cut(len(shown), len(names), "network"),
        {
            "rows": shown,
            "columns": shown,
            "values": [rounded(row, 4) for row in table.to_numpy()],
            "x": "evaluated",
            "y": "made on",
            "frames": [],
        },
    )


def tasks(sides: Sequence[Side], limits: Limits) -> Section | None:
    """Heat maps of the accuracy on each task along chains of paths.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; None if there are no accuracies on tasks.
    """
    rows = together(sides, lambda side: side.results.tasks)
    if rows.empty:
        return None
    ends = [(side, name, id) for side in sides for name, id in chains(side)]
    charts = [_task_map(side, name, id, named=len(sides) > 1) for side, name, id in ends[:_MOST_MAPS]]
    columns = columns_of(sides, rows, ("name", "task", "learned", "num_examples"))
    for name in ("accuracy_at_start", "accuracy"):
        columns.append(Column(name, plain(rows[name]), "percent", num_examples=plain(rows["num_examples"])))
    sentences = ["A row is a network of the chain, a column a task; a frame marks the network that learned the task."]
    if not charts:
        sentences = ["No committed chain of paths learned a task, so there are accuracies but no forgetting."]
    if len(ends) > len(charts):
        sentences.append(f"Shown: {len(charts)} of {count(len(ends), 'chain')}; the table has all paths.")
    return Section("tasks", "Tasks", sentences, charts, [Table("tasks", "Every path and task", columns)])


def _task_map(side: Side, end: str, id: str, *, named: bool) -> Chart:
    series = task_series(side.results, id)
    table = series.accuracies
    networks, names = list(table.index), list(table.columns)
    lost, back = series.forgetting, series.backward_transfer
    reading = f"{count(len(series.learned_at), 'task')} learned, average accuracy {percent(series.average_accuracy)}"
    if np.isfinite(lost):
        reading += f", forgetting {percent(lost)}, backward transfer {points(back)}"
    return Chart(
        "heat",
        f"{f'{side.label}: ' if named else ''}chain that ends with {end}",
        reading + ".",
        {
            "rows": networks,
            "columns": names,
            "values": [rounded(row, 4) for row in table.to_numpy()],
            "x": "task",
            "y": "network",
            "frames": [[networks.index(network), names.index(task)] for task, network in series.learned_at.items()],
        },
    )
