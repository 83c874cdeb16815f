"""What a trial of a search tells its searcher."""

from __future__ import annotations

import json
import math

import pytest

from fipray.cluster.trial import _Reports
from tests.studies import searching


@pytest.mark.parametrize(("kind", "told"), [("not finite", (math.inf, -math.inf)), ("completed", (0.0, 0.9))])
def test_one_that_is_no_longer_finite_is_the_worst_of_all(kind, told):
    """Its end may lie at the base, at no functional distance, and as robust as that."""
    reports = _Reports(searching())
    path = {"spec_json": json.dumps({"num_steps": 8}), "num_steps": 0, "outcome_kind": kind}
    reports.measure({"paths": [path], "points": [{"step": 0, "functional_distance_held_out": 0.0}]})
    reports.measure({"robustness": [{"robust_accuracy": 0.9}]})
    assert (reports._metrics["functional_distance_held_out"], reports._metrics["robust_accuracy"]) == told
