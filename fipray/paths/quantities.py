"""Kept quantities of a problem: the outputs among them, and the functional distance of all together."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fipray.geometry.keeps import Kept, Outputs


def total(distances: Mapping[str, float]) -> float:
    """Functional distance of several kept quantities together: the root of the sum of their squares.

    Args:
        distances: functional distance of each quantity by its name, one or more.

    Returns:
        The distance of all of them.
    """
    found = list(distances.values())
    return found[0] if len(found) == 1 else math.hypot(*found)


def outputs_on_anchors(keeps: Mapping[str, Kept]) -> tuple[str, Outputs | None]:
    """Find the kept outputs that name no set of inputs of their own.

    Args:
        keeps: kept quantities by name.

    Returns:
        The first of them and its name; ("", None) where there are none.
    """
    for name, kept in keeps.items():
        if isinstance(kept, Outputs) and not kept.on and not kept.held_out:
            return name, kept
    return "", None
