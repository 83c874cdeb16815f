"""What a worker takes of a node, how many nodes hold, and when lost work is tried again: exact, without a cluster."""

from __future__ import annotations

import pytest

import fipray as fip
from fipray.cluster.capacity import Nodes, _checked
from fipray.cluster.retries import GivenUp, Loss, Retries
from fipray.cluster.share import Share
from fipray.execution.jobs import Job
from tests.studies import study


@pytest.mark.parametrize(
    ("share", "node", "num_workers"),
    [
        (Share(2), {"CPU": 7.0}, 3),
        (Share(1, gpus=0.4), {"CPU": 64.0, "GPU": 2.0}, 4),  # two on each GPU, and a fifth on none
        (Share(1, gpus=1 / 3), {"CPU": 64.0, "GPU": 1.0}, 3),
        (Share(1, gpus=2.0), {"CPU": 64.0, "GPU": 5.0}, 2),
        (Share(1, memory_bytes=4 * 10**9), {"CPU": 64.0, "memory": 11e9}, 2),
        (Share(1, custom={"tpu": 2}), {"CPU": 64.0, "tpu": 5.0}, 2),
        (Share(1, custom={"tpu": 2}), {"CPU": 64.0}, 0),
    ],
)
def test_a_node_holds_whole_workers(share, node, num_workers):
    assert share.fits(node) == num_workers


@pytest.mark.parametrize(
    ("asked", "share", "sentence"),
    [
        (None, Share(4), "no single node holds a worker of 4 CPUs; the cluster has 0 GPUs and 6 CPUs in all"),
        (4, Share(2), None),
        (
            3,
            Share(2, memory_bytes=10**9),
            "3 workers of 2 CPUs and 1 GB memory each are asked for, and the nodes hold 2",
        ),
    ],
)
def test_workers_are_not_spread_over_nodes(asked, share, sentence):
    nodes = [Nodes({"CPU": 3.0, "memory": 2e9}, 2)] if sentence else [Nodes({"CPU": 4.0}, 2)]
    if sentence is None:
        assert _checked(asked, share, nodes, "the cluster has") == asked
        return
    with pytest.raises(fip.errors.UsageError) as refused:
        _checked(asked, share, nodes, "the cluster has")
    assert sentence in str(refused.value)


@pytest.fixture
def job() -> Job:
    id, spec = next(iter(study().specs.items()))
    return Job(id, spec, 1, {})


def test_lost_work_waits_longer_each_time_and_is_given_up_with_its_last_evidence(job):
    retries = Retries(max_attempts=3)
    for seconds in (1, 2):
        assert retries.add(job, Loss("node", "killed"), now=100) == seconds
        assert retries.pop(100 + seconds - 0.1, {"node"}) is None
        assert retries.pop(100 + seconds, {"node"}) is job
    assert retries.add(job, Loss("node", "killed again"), now=100) == 4
    end = retries.pop(104, {"node"})
    assert isinstance(end, GivenUp)
    assert end.reason == "given up: its worker was lost 3 times, the last time because killed again"
    assert len(retries) == 0


def test_losses_that_came_with_a_node_do_not_count_unless_there_are_four_times_as_many(job):
    retries = Retries(max_attempts=2)
    ends = []
    for number in range(8):
        retries.add(job, Loss(f"node-{number}", "gone"), now=0)
        ends.append(retries.pop(30, {"another"}))
    assert ends[:-1] == [job] * 7
    assert isinstance(ends[-1], GivenUp)
    assert "lost 8 times (8 of them with its node)" in ends[-1].reason
