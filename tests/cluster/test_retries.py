"""Retries of jobs whose worker was lost."""

from __future__ import annotations

import pytest

from fipray.cluster.retries import Exhausted, Loss, Retries
from fipray.execution.jobs import Job
from tests.studies import study


@pytest.fixture
def job() -> Job:
    id, spec = next(iter(study().specs.items()))
    return Job(id, spec, 1, {})


def test_retries_wait_longer_each_time_and_end_with_the_last_cause(job):
    retries = Retries(max_attempts=3)
    for seconds in (1, 2):
        assert retries.add(job, Loss("node", "killed"), now=100) == seconds
        assert retries.pop(100 + seconds - 0.1, {"node"}) is None
        assert retries.pop(100 + seconds, {"node"}) is job
    assert retries.add(job, Loss("node", "killed again"), now=100) == 4
    end = retries.pop(104, {"node"})
    assert isinstance(end, Exhausted)
    assert end.reason == "its worker was lost 3 times; last cause: killed again"
    assert len(retries) == 0


def test_retries_count_losses_with_a_node_only_at_four_times_the_limit(job):
    retries = Retries(max_attempts=2)
    ends = []
    for number in range(8):
        retries.add(job, Loss(f"node-{number}", "gone"), now=0)
        ends.append(retries.pop(30, {"another"}))
    assert ends[:-1] == [job] * 7
    assert isinstance(ends[-1], Exhausted)
    assert "lost 8 times (8 of them with its node)" in ends[-1].reason
