"""What a cluster has, against what a run asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.utils import estimate_available_memory, get_num_cpus

from fipray.cluster.share import Amounts, Share, listing
from fipray.errors import UsageError

_OBJECT_STORE = 0.3  # of a machine's memory, which Ray does not give to workers
_MOST_NODES = 1000  # of one type, where an autoscaler has no limit


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind: the resources of each, and how many there are or, on an autoscaling cluster, can be."""

    has: Amounts
    count: int = 1


@dataclass(frozen=True)
class Capacity:
    """Workers that can be had, the share that each takes, and the number of nodes that are there.

    `of_machine` and `of_cluster` take `gpus=None` for one GPU each where there are any, and else none; and
    `num_workers=None` for as many as fit. They raise UsageError, with what there is, for what can never be given.
    """

    num_workers: int
    share: Share
    num_nodes: int

    @classmethod
    def of_cluster(cls, num_workers: int | None, share: Share, gpus: float | None) -> Self:
        """Of the cluster that this process is connected to; its nodes may be in use by others at the moment."""
        alive = [Nodes(has) for has in alive_nodes().values()]
        who = f"the cluster of {len(alive)} {'node' if len(alive) == 1 else 'nodes'} has"
        planned = _planned()
        share = _with_gpus(share, gpus, [*alive, *planned])
        # What an autoscaler may add includes what it has added already.
        nodes = max(alive, planned, key=lambda kind: _fitting(kind, share)) if planned else alive
        return cls(_checked(num_workers, share, nodes, who), share, len(alive))

    @classmethod
    def of_machine(cls, num_workers: int | None, share: Share, gpus: float | None) -> Self:
        """Of a Ray session that is to be started on this machine."""
        has = {"CPU": float(get_num_cpus(override_docker_cpu_warning=True)), "GPU": float(gpus_of_machine())}
        has["memory"] = float(int(estimate_available_memory() * (1 - _OBJECT_STORE)))
        share = _with_gpus(share, gpus, [Nodes(has)])
        return cls(_checked(num_workers, share, [Nodes(has)], "this machine has"), share, 1)


def alive_nodes() -> dict[str, Amounts]:
    """The resources of the nodes that are there, by their ids."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def workers_that_fit(share: Share) -> int:
    """How many can be had now or, on an autoscaling cluster, once it has grown."""
    alive = [Nodes(has) for has in alive_nodes().values()]
    return max(_fitting(alive, share), _fitting(_planned(), share))


def pending(num_workers: int, share: Share, nodes: Mapping[str, Amounts]) -> str:
    """What workers that are not placed wait for, as a sentence; `nodes` are those that are there."""
    fit = sum(share.fits(has) for has in nodes.values())
    there = f"{len(nodes)} {'node' if len(nodes) == 1 else 'nodes'}, which can hold {fit}"
    if fit >= num_workers:
        return f"workers are being started, or wait for others to leave: there are {there} of {share} each"
    return f"waiting for nodes: of {num_workers} workers of {share} each, there are {there}"


def _fitting(nodes: Sequence[Nodes], share: Share) -> int:
    return sum(share.fits(kind.has) * kind.count for kind in nodes)


def _with_gpus(share: Share, gpus: float | None, nodes: Sequence[Nodes]) -> Share:
    there = any(kind.has.get("GPU") for kind in nodes)
    return replace(share, gpus=gpus if gpus is not None else float(there))


def _checked(num_workers: int | None, share: Share, nodes: Sequence[Nodes], who: str) -> int:
    """How many workers there will be. Raises UsageError where that is impossible."""
    fit = _fitting(nodes, share)
    wanted = num_workers if num_workers is not None else max(fit, 1)
    if wanted <= fit:
        return wanted
    names = dict.fromkeys(("GPU", "CPU", *share.amounts))
    total = {name: sum(kind.has.get(name, 0.0) * kind.count for kind in nodes) for name in names}
    for name, each in share.amounts.items():
        if wanted * each > total[name] + 1e-9:
            what = {"CPU": "CPUs", "GPU": "GPUs", "memory": "GB of memory"}.get(name, name)
            unit = 1e9 if name == "memory" else 1
            raise UsageError(
                f"{wanted * each / unit:g} {what} are asked for (workers: {wanted}, {what} of each: {each / unit:g}); "
                f"{who} {listing(total)}{_custom(share, nodes)}. Ask for fewer workers or for less for each, or add "
                "nodes"
            )
    each_node = "; ".join(dict.fromkeys(listing({name: kind.has.get(name, 0.0) for name in names}) for kind in nodes))
    if fit == 0:
        raise UsageError(
            f"no single node holds a worker of {share}; {who} {listing(total)} in all, but a node has {each_node}. Ask "
            "for less for each worker, or add a larger node"
        )
    raise UsageError(
        f"{wanted} workers of {share} each are asked for, and the nodes hold {fit}, as no worker is spread over two: "
        f"a node has {each_node}. Ask for {fit} workers or for less for each, or add nodes"
    )


def _custom(share: Share, nodes: Sequence[Nodes]) -> str:
    """The names of the custom resources that there are, where a worker asks for any."""
    if not share.custom:
        return ""
    usual = ("CPU", "GPU", "memory", "object_store_memory")
    names = {name for kind in nodes for name in kind.has if name not in usual and ":" not in name}
    return (
        f"; custom resources there: {', '.join(sorted(names)) or 'none'} (ray start --resources='{{...}}' names them)"
    )


def _planned() -> list[Nodes]:
    """The nodes that an autoscaler may have at most; none where there is no autoscaler.

    Only private API knows of it (Ray 2.60); without it, such as through Ray's client, what is there counts.
    """
    try:
        config = ray._private.state.state.get_cluster_config()
    except Exception:  # whatever a private name that has changed raises
        return []
    groups = config.node_group_configs if config else ()
    most = _MOST_NODES
    return [Nodes(dict(group.resources), most if group.max_count < 0 else group.max_count) for group in groups]


def gpus_of_machine() -> int:
    """As many as a Ray session on this machine will find. Ray 2.60 has no public name for it; torch loads slowly."""
    manager = get_accelerator_manager_for_resource("GPU")
    there, visible = manager.get_current_node_num_accelerators(), manager.get_current_process_visible_accelerator_ids()
    return there if visible is None else min(there, len(visible))
