"""Objectives that a trial reports to its searcher."""

from __future__ import annotations

import json
import math

import pytest

from fipray.execution.searching.trials import TrialReporter
from tests.studies import searching


@pytest.mark.parametrize(("kind", "reported"), [("not finite", (math.inf, -math.inf)), ("completed", (0.0, 0.9))])
def test_path_that_is_not_finite_reports_the_worst_objectives(kind, reported):
    """Its last finite point may be the base network, at distance 0 and as robust as that."""
    reporter = TrialReporter(searching(), lambda metrics, results: None)
    path = {"spec_json": json.dumps({"num_steps": 8}), "num_steps": 0, "outcome_kind": kind}
    reporter.update({"paths": [path], "points": [{"step": 0, "functional_distance_held_out": 0.0}]})
    reporter.update({"robustness": [{"robust_accuracy": 0.9}]})
    assert (reporter.metrics["functional_distance_held_out"], reporter.metrics["robust_accuracy"]) == reported
