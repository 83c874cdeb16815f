"""Generated paths that break at any place end at a finite point, and say so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fipray.paths import Adaptive, SaveAt, Scheduled
from tests.paths.breaking import BROKEN, Breaks, Moving, assert_finite, traced

hypothesis = pytest.importorskip("hypothesis")
strategies = hypothesis.strategies


@hypothesis.settings(max_examples=30, derandomize=True, deadline=None)
@hypothesis.given(
    what=strategies.sampled_from(["objective", "probe", "event", "limit", "radius", "displacement", "gain"]),
    value=strategies.sampled_from(BROKEN),
    at=strategies.integers(1, 12),
    num_points=strategies.integers(1, 12),
    adaptive=strategies.booleans(),
)
def test_a_path_that_breaks_anywhere_has_finite_points_and_says_so(what, value, at, num_points, adaptive):
    breaks = Breaks(value, at)
    radius = Adaptive(1.0, tolerance=2.8) if adaptive else Scheduled(1.0)
    changes: dict[str, Any] = {
        "objective": {"objective": breaks},
        "probe": {"probes": {"size": breaks.probe}},
        "event": {"events": [breaks]},
        "limit": {"events": [replace(breaks, limit=True)]},
        "radius": {"radius": breaks},
        "displacement": {"stepper": Moving(at, displacement=value)},
        "gain": {"stepper": Moving(at, gain=value)},
    }[what]
    path = traced(**{"radius": radius, "num_steps": 12, "save_at": SaveAt(num_points), **changes})
    assert path.outcome.kind == "not finite"
    assert path.end.step < at
    assert_finite(path)
