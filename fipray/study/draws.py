"""Draws from a search space: at random as Ray Tune draws them, and the combinations of a grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from fipray.study.space import Domain

Drawn = dict[str, Any]
"""Draws by dotted name; for a Choice the index of its value."""


def random_draws(space: Mapping[str, Domain], seed: int) -> Iterator[Drawn]:
    """Draw at random without end.

    The draws are those of Ray Tune's `BasicVariantGenerator(random_state=seed)`, so that a search has equal trials on
    any runner.

    Args:
        space: domains by dotted name.
        seed: seed.

    Yields:
        Draws of one trial after the other.
    """
    generator = np.random.default_rng(seed)
    while True:
        yield {name: domain.draw(generator) for name, domain in space.items()}


def grid_draws(space: Mapping[str, Domain]) -> Iterator[Drawn]:
    """List all combinations, the first field varying fastest, as Ray Tune does.

    Args:
        space: domains by dotted name, each a `Choice`.

    Yields:
        Draws of one trial after the other.
    """
    names = list(space)
    for indices in product(*(range(len(domain.extremes)) for domain in list(space.values())[::-1])):
        yield dict(zip(names, indices[::-1], strict=True))


def num_combinations(space: Mapping[str, Domain]) -> int | None:
    """Count the values that a space holds.

    Args:
        space: domains by dotted name.

    Returns:
        The number; None for a space with a continuous domain.
    """
    total = 1
    for domain in space.values():
        if domain.size is None:
            return None
        total *= domain.size
    return total
