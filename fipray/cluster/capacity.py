"""Preflight: what a cluster or machine can hold, compared with what a run requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.utils import estimate_available_memory, get_num_cpus

from fipray.cluster.resources import Amounts, Labels, WorkerResources, custom_resources, format_amounts
from fipray.errors import UsageError

_OBJECT_STORE_FRACTION = 0.3  # of a machine's memory, which Ray reserves for its object store
NODE_ID_LABEL = "ray.io/node-id"
_UNLIMITED_NODES = 1000  # stands for the node count of an autoscaler group without a limit


@dataclass(frozen=True)
class NodeGroup:
    """Nodes with equal resources.

    Args:
        resources: total resources of each node.
        count: number of nodes or, for an autoscaler's node type, the most that it may start.
    """

    resources: Amounts
    count: int = 1


@dataclass(frozen=True)
class Capacity:
    """Workers that a cluster can hold. Build it with `of_cluster` or `of_machine`.

    Args:
        num_workers: number of workers to start.
        resources: resources of each worker.
        num_nodes: number of nodes that are alive.
    """

    num_workers: int
    resources: WorkerResources
    num_nodes: int

    @classmethod
    def of_cluster(cls, num_workers: int | None, resources: WorkerResources, gpus: float | None) -> Self:
        """Capacity of the connected cluster, counting total resources: some may be in use by other jobs.

        Args:
            num_workers: requested number of workers; None for as many as fit.
            resources: requested resources of each worker; its `gpus` is replaced.
            gpus: GPUs of each worker; None for one where the cluster has GPUs and none elsewhere.

        Returns:
            The capacity, with `gpus` resolved.

        Raises:
            UsageError: if the cluster, and its autoscaler, can never hold what is requested.
        """
        alive = [NodeGroup(node) for node in alive_nodes(resources).values()]
        labelled = " with these labels" if resources.labels else ""
        owner = f"the cluster of {len(alive)} {'node' if len(alive) == 1 else 'nodes'}{labelled} has"
        planned = _autoscaler_limits()
        resources = _with_gpus(resources, gpus, [*alive, *planned])
        if not (alive or planned):
            raise UsageError(
                f"no node has the labels {format_labels(resources.labels)}; there are: {labels_of_nodes() or 'none'}. "
                "Nodes get labels by ray start --labels='KEY=VALUE'"
            )
        # The autoscaler's limits include the nodes that it has already started, so the two are not added.
        nodes = max(alive, planned, key=lambda groups: _num_fitting(groups, resources)) if planned else alive
        return cls(_checked_num_workers(num_workers, resources, nodes, owner), resources, len(alive))

    @classmethod
    def of_machine(cls, num_workers: int | None, resources: WorkerResources, gpus: float | None) -> Self:
        """Capacity of a private Ray session on this machine, before it is started.

        Args:
            num_workers: requested number of workers; None for as many as fit.
            resources: requested resources of each worker; its `gpus` is replaced.
            gpus: GPUs of each worker; None for one where this machine has GPUs and none elsewhere.

        Returns:
            The capacity, with `gpus` resolved.

        Raises:
            UsageError: if this machine cannot hold what is requested, and for labels, which choose among nodes.
        """
        if resources.labels:
            raise UsageError(
                f"the label {format_labels(resources.labels)} chooses among the nodes of a cluster, and this run is on "
                "this machine alone: give the cluster's address, or leave the label out"
            )
        machine = {"CPU": float(get_num_cpus(override_docker_cpu_warning=True)), "GPU": float(num_local_gpus())}
        machine["memory"] = float(int(estimate_available_memory() * (1 - _OBJECT_STORE_FRACTION)))
        groups = [NodeGroup(machine)]
        resources = _with_gpus(resources, gpus, groups)
        return cls(_checked_num_workers(num_workers, resources, groups, "this machine has"), resources, 1)


def alive_nodes(resources: WorkerResources) -> dict[str, Amounts]:
    """Return the total resources of the nodes that are alive and have the labels that workers need, by node ID."""
    nodes = [node for node in ray.nodes() if node["Alive"] and resources.suits(node["Labels"])]
    return {node["NodeID"]: node["Resources"] for node in nodes}


def format_labels(labels: Labels) -> str:
    """Format labels for messages.

    Args:
        labels: values that suit, by key.

    Returns:
        Such as "ray.io/accelerator-type=A100,H100".
    """
    return " and ".join(f"{key}={','.join(values)}" for key, values in labels.items())


def labels_of_nodes() -> str:
    """List the labels of the nodes that are alive, without the ID that Ray gives to each."""
    pairs = {f"{key}={value}" for node in ray.nodes() if node["Alive"] for key, value in node["Labels"].items()}
    return ", ".join(sorted(pair for pair in pairs if not pair.startswith(NODE_ID_LABEL)))


def num_fitting_workers(resources: WorkerResources) -> int:
    """Compute how many workers fit on the connected cluster, now or once its autoscaler has added nodes.

    Args:
        resources: resources of each worker.

    Returns:
        Number of workers.
    """
    alive = [NodeGroup(node) for node in alive_nodes(resources).values()]
    return max(_num_fitting(alive, resources), _num_fitting(_autoscaler_limits(), resources))


def describe_wait(num_workers: int, resources: WorkerResources, nodes: Mapping[str, Amounts]) -> str:
    """Describe what workers wait for that Ray has not placed yet.

    Args:
        num_workers: number of requested workers.
        resources: resources of each worker.
        nodes: total resources of the nodes that are alive, by node ID.

    Returns:
        A sentence without a full stop.
    """
    fit = sum(resources.num_fitting(node) for node in nodes.values())
    held = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'} can hold {fit} workers with {resources} each"
    if fit >= num_workers:
        return f"waiting for workers to start, or for other jobs to release resources: {held}"
    return f"waiting for nodes: {num_workers} workers are requested, but {held}"


def num_local_gpus() -> int:
    """Return the number of GPUs that a Ray session on this machine will find.

    Ray 2.60 has no public name for this; torch would know too, but takes seconds to import.
    """
    manager = get_accelerator_manager_for_resource("GPU")
    found, visible = manager.get_current_node_num_accelerators(), manager.get_current_process_visible_accelerator_ids()
    return found if visible is None else min(found, len(visible))


def _num_fitting(groups: Sequence[NodeGroup], resources: WorkerResources) -> int:
    return sum(resources.num_fitting(group.resources) * group.count for group in groups)


def _with_gpus(resources: WorkerResources, gpus: float | None, groups: Sequence[NodeGroup]) -> WorkerResources:
    has_gpus = any(group.resources.get("GPU") for group in groups)
    return replace(resources, gpus=gpus if gpus is not None else float(has_gpus))


def _checked_num_workers(
    num_workers: int | None, resources: WorkerResources, groups: Sequence[NodeGroup], owner: str
) -> int:
    """Return the number of workers to start. Raises UsageError if they can never all be placed."""
    fit = _num_fitting(groups, resources)
    wanted = num_workers if num_workers is not None else max(fit, 1)
    if wanted <= fit:
        return wanted
    names = dict.fromkeys(("GPU", "CPU", *resources.amounts))  # a set that keeps its order
    total = {name: sum(group.resources.get(name, 0.0) * group.count for group in groups) for name in names}
    for name, each in resources.amounts.items():
        if wanted * each > total[name] + 1e-9:
            what = {"CPU": "CPUs", "GPU": "GPUs", "memory": "GB of memory"}.get(name, name)
            unit = 1e9 if name == "memory" else 1
            raise UsageError(
                f"{wanted * each / unit:g} {what} requested (workers: {wanted}, {what} per worker: {each / unit:g}), "
                f"but {owner} {format_amounts(total)}{_available_custom(resources, groups)}. Request fewer workers or "
                "less per worker, or add nodes"
            )
    # The totals suffice, so the workers do not fit because none may span two nodes.
    per_node = [format_amounts({name: group.resources.get(name, 0.0) for name in names}) for group in groups]
    listed = "; ".join(dict.fromkeys(per_node))
    if fit == 0:
        raise UsageError(
            f"no single node can hold a worker with {resources}: {owner} {format_amounts(total)} in total, and per "
            f"node {listed}. Request less per worker, or add a larger node"
        )
    raise UsageError(
        f"{wanted} workers with {resources} each requested, but the nodes can hold only {fit}, since a worker cannot "
        f"span nodes; per node: {listed}. Request {fit} workers or less per worker, or add nodes"
    )


def _available_custom(resources: WorkerResources, groups: Sequence[NodeGroup]) -> str:
    """Names of the custom resources of the nodes, if the worker requests any."""
    if not resources.custom:
        return ""
    names = sorted({name for group in groups for name in custom_resources(group.resources)})
    return (
        f"; custom resources available: {', '.join(names) or 'none'} (nodes declare them with ray start "
        "--resources='{...}')"
    )


def _autoscaler_limits() -> list[NodeGroup]:
    """Node groups with the most nodes that the autoscaler may start; empty without an autoscaler.

    Only private API gives these (Ray 2.60). Where it fails, as through Ray's client, only nodes that are alive count.
    """
    try:
        config = ray._private.state.state.get_cluster_config()
    except Exception:  # any exception that a changed private name may raise
        return []
    groups = config.node_group_configs if config else ()
    return [
        NodeGroup(dict(group.resources), _UNLIMITED_NODES if group.max_count < 0 else group.max_count)
        for group in groups
    ]
