"""Tables, paired comparisons and figure of the comparison of robust networks, from its records.

Imported by `python -m benchmarks.comparisons.ensembles`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.comparisons.contenders import Kind
from benchmarks.comparisons.judged import AttackNames, shown, unpacked
from benchmarks.comparisons.paired import Difference, at_clean, over_examples, over_seeds
from benchmarks.comparisons.resumed import Record
from fipray.analysis import front

RECIPE = "paths: recipe"
ATTACKS: dict[AttackNames, str] = {
    "autoattack": "AutoAttack, and attacks on ensembles",
    "apgd": "APGD-CE and APGD-T, and attacks on ensembles",
    "pgd": "PGD alone, which flatters",
}


def result(record: Record) -> Record:
    """Take the point of a record that is the contender's result."""
    return next(point for point in record["points"] if point["name"] == record["result"])


def accuracies(records: Sequence[Record], kind: str) -> list[float]:
    """Accuracies of the results, "clean" or "robust", one a record."""
    return [result(record)[f"{kind}_accuracy"] for record in records]


def answers(record: Record, point: Record, kind: str) -> NDArray[np.bool_]:
    """Whether each test example is classified correctly, "clean" or "robust"."""
    count = record["protocol"]["num_tests" if kind == "clean" else "num_examples"]
    return unpacked(point[f"{kind}_examples"], count)


def shared(ours: Sequence[Record], theirs: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Pair the records of two contenders by their seeds."""
    by_seed = {record["seed"]: record for record in theirs}
    pairs = [(record, by_seed[record["seed"]]) for record in ours if record["seed"] in by_seed]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def difference(ours: Sequence[Record], theirs: Sequence[Record], kind: str) -> Difference:
    """Compare results of shared seeds, or with one seed its examples."""
    if len(ours) > 1:
        return over_seeds(accuracies(ours, kind), accuracies(theirs, kind))
    return over_examples(*(answers(record, result(record), kind) for record in (ours[0], theirs[0])))


def at_equal_clean(ours: Sequence[Record], theirs: Sequence[Record]) -> Difference | None:
    """Compare robust accuracy at their clean accuracy; None where a seed's mixtures do not reach it."""
    places = [
        at_clean([point["clean_accuracy"] for point in record["points"]], clean)
        for record, clean in zip(ours, accuracies(theirs, "clean"), strict=True)
    ]
    found: list[Any] = []
    for record, place in zip(ours, places, strict=True):
        if place is None:
            return None
        points = record["points"]
        if len(ours) > 1:
            found.append(place.of([point["robust_accuracy"] for point in points]))
        else:
            found.append(place.of([answers(record, point, "robust") for point in points]))
    if len(ours) > 1:
        return over_seeds(found, accuracies(theirs, "robust"))
    return over_examples(found[0], answers(theirs[0], result(theirs[0]), "robust"))


def methods(records: Sequence[Record], kind: Kind) -> dict[str, list[Record]]:
    """Sort the records of a kind by contender, the most robust contender first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.get("kind") == kind:
            found.setdefault(record["method"], []).append(record)
    return dict(sorted(found.items(), key=lambda one: -float(np.mean(accuracies(one[1], "robust")))))


def title(protocol: Record) -> str:
    attack = ATTACKS[protocol["attacks"]]
    return (
        f"{protocol['data']} ({protocol['role']} set), {protocol['network']}, linf epsilon {protocol['epsilon']:.4g}, "
        f"{protocol['seconds']:g} s of one thread each; robust: {attack}, on {protocol['num_examples']:,} images"
    )


def mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.2f}{spread}"


def show(console: Console, records: Sequence[Record]) -> None:
    """Print all accuracies, what was tuned, and the paired comparisons."""
    protocol = records[0]["protocol"]
    table = Table(title=title(protocol), caption="mean and standard deviation over seeds, %")
    table.add_column("method")
    for column in ("seeds", "members", "s", "clean", "robust"):
        table.add_column(column, justify="right")
    table.add_column("settings")
    for kind in ("base", "paths", "ablated", "rival", "other"):
        for name, rows in methods(records, kind).items():
            numbers = sorted({result(record)["num_members"] for record in rows})
            settings = shown(rows[0]["settings"]) if kind == "rival" else ""
            if kind in ("paths", "ablated"):
                settings = "result: " + ", ".join(dict.fromkeys(record["result"] for record in rows))
            table.add_row(
                name,
                str(len(rows)),
                "-".join(str(number) for number in (numbers[0], numbers[-1])[: len(numbers)]),
                f"{np.mean([record['seconds'] for record in rows]):.1f}",
                mean_and_spread(accuracies(rows, "clean")),
                mean_and_spread(accuracies(rows, "robust")),
                settings,
            )
        table.add_section()
    console.print(table)
    free = sum(len(record["tried"]) for record in records if "tuning" in record)
    console.print(
        f"Trials of paths are part of their seconds. Rivals were tuned beforehand, for free: {free} trainings of "
        f"{protocol['tuning_seconds']:g} s on validation images."
        if protocol["tuning_seconds"]
        else "Rivals were not tuned: learning rate .003, from the base network."
    )
    for name, rows in methods(records, "paths").items():
        compare(console, name, rows, methods(records, "rival"))
        if name == RECIPE:
            compare(console, name, rows, methods(records, "ablated"))


def compare(console: Console, name: str, ours: Sequence[Record], theirs: dict[str, list[Record]]) -> None:
    """Print the paired comparison of one contender with all rivals."""
    paired = {rival: shared(ours, rows) for rival, rows in theirs.items()}
    paired = {rival: pair for rival, pair in paired.items() if pair[0]}
    if not paired:
        return
    table = Table(title=f"{name}, less each of these (strongest first); points, 95 % intervals")
    for column in ("less", "paired over", "clean", "robust", "robust at the other's clean accuracy"):
        table.add_column(column)
    for rival, (own, other) in paired.items():
        equal = at_equal_clean(own, other)
        table.add_row(
            rival,
            f"{len(own)} seeds" if len(own) > 1 else "examples, 1 seed",
            *(str(difference(own, other, kind)) for kind in ("clean", "robust")),
            "not reached" if equal is None else str(equal),
        )
    console.print(table)
    strongest, (own, other) = next(iter(paired.items()))
    clean, robust = (difference(own, other, kind) for kind in ("clean", "robust"))
    console.print(f"{name} beside the strongest ({strongest}): robust accuracy {robust}, clean {clean}.")
    ours_took, theirs_took = (float(np.mean([record["seconds"] for record in rows])) for rows in (own, other))
    if ours_took > 1.05 * theirs_took:
        console.print(f"{name} took {ours_took:.1f} s, this rival {theirs_took:.1f}: the comparison favours the paths.")


def draw(records: Sequence[Record], file: Path) -> None:
    """Draw clean against robust accuracy: all points of paths but the base network, and every rival."""
    rows = [
        {"method": record["method"], "seed": record["seed"], **point}
        for record in records
        if record.get("kind") in ("paths", "rival")
        for point in record["points"]
        if point["name"] != "base"
    ]
    means = pd.DataFrame(rows).groupby(["method", "name"], sort=False)[["clean_accuracy", "robust_accuracy"]].mean()
    means = means.reset_index()
    means["kind"] = means["method"].map(lambda name: name.split(",")[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    front(means, method="kind").savefig(file, dpi=150)
