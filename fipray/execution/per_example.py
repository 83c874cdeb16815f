"""Per-example results of attack jobs, read from rows and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from fipray.execution.jobs import Artifact, PerExample, Tables
from fipray.robustness import Robustness
from fipray.study.evaluation import AttackSpec, per_example_of


def joined(pieces: Sequence[AttackSpec], results: Mapping[str, Artifact]) -> tuple[Robustness, dict[str, float]]:
    """Join the per-example results of all attacks and chunks.

    Args:
        pieces: specs of the attacks, each attack's chunks in the order of the examples.
        results: their results by the names in `AttackSpec.produces`.

    Returns:
        Results of all examples for each attack, and the seconds that each attack took.
    """
    clean: dict[str, list[bool]] = {}
    robust: dict[str, list[bool]] = {}
    seconds: dict[str, float] = {}
    for piece in pieces:
        per_example, attack = results[piece.produces], piece.attack.name
        assert isinstance(per_example, PerExample), f"{piece.produces} names weights, not per-example results"
        clean[attack] = [*clean.get(attack, ()), *per_example.clean]
        robust[attack] = [*robust.get(attack, ()), *per_example.robust]
        seconds[attack] = seconds.get(attack, 0.0) + per_example.seconds
    # Jobs may have run on different devices, which can disagree about an example on a decision boundary. It counts as
    # classified correctly only if it was in the jobs of all attacks.
    always = torch.tensor(list(clean.values())).all(0)
    return Robustness(always, {attack: torch.tensor(each) & always for attack, each in robust.items()}), seconds


def per_example_results(tables: Tables) -> dict[str, Artifact]:
    """Per-example results that rows hold.

    Args:
        tables: rows of `per_example`.

    Returns:
        Results by the names in `AttackSpec.produces`.
    """
    return {
        per_example_of(row["name"], row["attack"], row["first_example"]): PerExample(
            row["clean"], row["robust"], row["seconds"]
        )
        for row in tables.get("per_example", ())
    }
