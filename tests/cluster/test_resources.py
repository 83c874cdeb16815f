"""Resources of workers and capacity of nodes, without a cluster."""

from __future__ import annotations

import pytest
import ray
import torch

import fipray as fip
from fipray.cluster.capacity import NodeGroup, _checked_num_workers
from fipray.cluster.resources import WorkerResources
from fipray.cluster.worker_actor import assigned_device, memory_fraction
from fipray.errors import UsageError


@pytest.mark.parametrize(
    ("resources", "node", "num_workers"),
    [
        (WorkerResources(2), {"CPU": 7.0}, 3),
        (
            WorkerResources(1, gpus=0.4),
            {"CPU": 64.0, "GPU": 2.0},
            4,
        ),  # two on each GPU: the rest of each adds up to no fifth
        (WorkerResources(1, gpus=1 / 3), {"CPU": 64.0, "GPU": 1.0}, 3),
        (WorkerResources(1, gpus=1.0), {"CPU": 64.0, "GPU": 5.0}, 5),
        (WorkerResources(1, memory_bytes=4 * 10**9), {"CPU": 64.0, "memory": 11e9}, 2),
        (WorkerResources(1, custom={"tpu": 2}), {"CPU": 64.0, "tpu": 5.0}, 2),
        (WorkerResources(1, custom={"tpu": 2}), {"CPU": 64.0}, 0),
    ],
)
def test_num_fitting_counts_whole_workers(resources, node, num_workers):
    assert resources.num_fitting(node) == num_workers


@pytest.mark.parametrize(
    ("num_workers", "resources", "sentence"),
    [
        (
            None,
            WorkerResources(4),
            "no single node can hold a worker with 4 CPUs: the cluster has 0 GPUs and 6 CPUs in total",
        ),
        (4, WorkerResources(2), None),
        (
            3,
            WorkerResources(2, memory_bytes=10**9),
            "3 workers with 2 CPUs and 1 GB memory each requested, but the nodes can hold only 2",
        ),
    ],
)
def test_capacity_refuses_workers_that_would_span_nodes(num_workers, resources, sentence):
    nodes = [NodeGroup({"CPU": 3.0, "memory": 2e9}, 2)] if sentence else [NodeGroup({"CPU": 4.0}, 2)]
    if sentence is None:
        assert _checked_num_workers(num_workers, resources, nodes, "the cluster has") == num_workers
        return
    with pytest.raises(fip.errors.UsageError) as refused:
        _checked_num_workers(num_workers, resources, nodes, "the cluster has")
    assert sentence in str(refused.value)


def test_gpu_that_torch_cannot_use_is_an_error_and_never_a_silent_cpu(monkeypatch):
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [3])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"has reserved a GPU \(3\) of this node.*torch .* finds none"):
        assigned_device("auto")
    assert assigned_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert assigned_device("auto") == "cuda"
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    assert assigned_device("auto") == "cpu"


@pytest.mark.parametrize(
    ("device", "assigned", "fraction"),
    [
        ("cuda", {"CPU": 1.0, "GPU": 0.5}, 0.5),
        ("cuda", {"CPU": 1.0, "GPU": 1.0}, None),
        ("cuda", {"CPU": 1.0}, None),
        ("cpu", {"CPU": 1.0, "GPU": 0.5}, None),
    ],
)
def test_a_worker_takes_its_fraction_of_a_shared_gpus_memory(device, assigned, fraction):
    assert memory_fraction(device, assigned) == fraction
