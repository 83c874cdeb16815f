"""What a cluster has, against what a run asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource

from fipray.errors import UsageError


@dataclass(frozen=True)
class Capacity:
    """Workers that fit, the GPUs each gets, and the nodes that are there."""

    num_workers: int
    gpus_per_worker: float
    num_nodes: int

    @classmethod
    def of_cluster(cls, num_workers: int | None, gpus_per_worker: float | None, threads_per_worker: int) -> Self:
        """Raises UsageError, with what there is, where the cluster can never give what is asked."""
        has, num_nodes = _resources()
        who = f"the cluster of {num_nodes} {'node' if num_nodes == 1 else 'nodes'} has"
        cpus, gpus = has.get("CPU", 0.0), has.get("GPU", 0.0)
        return cls._of(cpus, gpus, num_nodes, who, num_workers, gpus_per_worker, threads_per_worker)

    @classmethod
    def of_machine(cls, num_workers: int | None, gpus_per_worker: float | None, threads_per_worker: int) -> Self:
        """The same for a Ray session that is to be started on this machine."""
        cpus, gpus = float(os.cpu_count() or 1), float(_gpus_of_machine())
        return cls._of(cpus, gpus, 1, "this machine has", num_workers, gpus_per_worker, threads_per_worker)

    @classmethod
    def _of(
        cls,
        cpus: float,
        gpus: float,
        num_nodes: int,
        who: str,
        num_workers: int | None,
        gpus_per_worker: float | None,
        threads: int,
    ) -> Self:
        each = gpus_per_worker if gpus_per_worker is not None else (1.0 if gpus else 0.0)
        there = f"{who} {gpus:g} GPUs and {cpus:g} CPUs"
        fit = int(cpus // threads)
        if each:
            fit = min(fit, int(gpus / each + 1e-9))
        wanted = num_workers if num_workers is not None else max(fit, 1)
        if wanted * each > gpus + 1e-9:
            raise UsageError(
                f"{wanted * each:g} GPUs are asked for (workers: {wanted}, GPUs of each: {each:g}); {there}. "
                "Ask for fewer workers or GPUs, or add nodes"
            )
        if wanted > fit:
            raise UsageError(
                f"{wanted * threads} CPUs are asked for (workers: {wanted}, CPUs of each: {threads}); {there}. "
                "Ask for fewer workers or threads, or add nodes"
            )
        return cls(wanted, each, num_nodes)

    @staticmethod
    def pending(slots: int, cpus_each: int, gpus_each: float) -> str | None:
        """What workers wait for, as a sentence, where the nodes that are there now cannot hold them all."""
        has = ray.cluster_resources()
        if has.get("CPU", 0) >= slots * cpus_each and has.get("GPU", 0) + 1e-9 >= slots * gpus_each:
            return None
        return (
            f"waiting for nodes: {slots} workers need {slots * cpus_each} CPUs and {slots * gpus_each:g} GPUs, and "
            f"there are {has.get('CPU', 0):g} and {has.get('GPU', 0):g} now"
        )


def _gpus_of_machine() -> int:
    """As many as a Ray session on this machine will find. Ray 2.60 has no public name for it; torch loads slowly."""
    manager = get_accelerator_manager_for_resource("GPU")
    there, visible = manager.get_current_node_num_accelerators(), manager.get_current_process_visible_accelerator_ids()
    return there if visible is None else min(there, len(visible))


def _resources() -> tuple[dict[str, float], int]:
    """Resources that are there or, on an autoscaling cluster, can be; and the number of nodes that are there."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    has: dict[str, float] = dict(ray.cluster_resources())
    # Only private API knows what an autoscaler may add (Ray 2.60); without it, what is there counts.
    state = getattr(getattr(ray, "_private", None), "state", None)
    greatest = getattr(getattr(state, "state", None), "get_max_resources_from_cluster_config", lambda: None)() or {}
    for name, amount in greatest.items():
        has[name] = max(has.get(name, 0.0), float(amount))
    return has, len(alive)
