"""Resources that each worker reserves in Ray's scheduler."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from fipray.errors import UsageError

Amounts = Mapping[str, float]  # by Ray's resource names: CPU, GPU, memory (bytes), and custom resources
_BUILT_IN = ("CPU", "GPU", "memory", "object_store_memory")
Labels = Mapping[str, tuple[str, ...]]  # values that suit by Ray's label, the preferred one first
_LABEL = re.compile(r"[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", re.ASCII)  # of values, and of keys after a "prefix/"
_ROUNDING = 1e-9  # three workers with a third of a GPU each fit on one GPU in spite of rounding


@dataclass(frozen=True)
class WorkerResources:
    """Resources of one worker. Ray reserves them; it neither pins cores nor enforces the memory.

    Args:
        cpus: number of CPU cores, at least 1.
        gpus: 0, a fraction of a GPU, or 1; a worker computes on a single GPU.
        memory_bytes: memory to reserve on the node; 0 reserves none.
        custom: amounts of the cluster's custom resources, by name; each a fraction of 1 or a whole number.
        device: torch device of the worker; "auto" for its GPU if it has one, and the CPU elsewhere.
        labels: values of the labels of the nodes that suit the worker, the preferred one first; empty for all nodes.

    Raises:
        UsageError: for an amount that Ray cannot assign, and for what is no label of Ray's.
    """

    cpus: int = 1
    gpus: float = 0.0
    memory_bytes: int = 0
    custom: Amounts = field(default_factory=dict)
    device: str = "auto"
    labels: Labels = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise UsageError(f"threads_per_worker must be at least 1, got {self.cpus}")
        if self.gpus > 1:
            raise UsageError(
                f"a worker computes on one GPU, so of gpus_per_worker={self.gpus:g} all others would be reserved and "
                "idle: use gpus_per_worker=1 (--gpus-per-worker 1) and as many workers as there are GPUs"
            )
        if not self.gpus >= 0:
            raise UsageError(f"gpus_per_worker must be 0, a fraction of 1, or 1, got {self.gpus:g}")
        if self.memory_bytes < 0:
            raise UsageError(f"memory_per_worker must be at least 0 bytes, got {self.memory_bytes}")
        for name, amount in self.custom.items():
            if name in _BUILT_IN:
                raise UsageError(
                    f"{name} is not a custom resource: set CPUs, GPUs and memory with threads_per_worker, "
                    "gpus_per_worker and memory_per_worker"
                )
            if amount <= 0 or (amount > 1 and amount % 1):
                raise UsageError(
                    "the amount of a custom resource must be a positive fraction of 1 or a positive whole number, got "
                    f"{name}={amount:g}"
                )

        for key, values in self.labels.items():
            faulty = [text for text in (key.rpartition("/")[2], *values) if not _LABEL.fullmatch(text)]
            if faulty or not values:
                raise UsageError(
                    f"label {key!r} needs one value or more of letters, digits, '-', '_' and '.', such as "
                    f"ray.io/accelerator-type=A100; {', '.join(map(repr, faulty)) or 'none'} was given"
                )

    @property
    def selectors(self) -> list[dict[str, str]]:
        """Labels that suit the worker, each choice of one value for each key, the preferred one first."""
        return [dict(zip(self.labels, values, strict=True)) for values in product(*self.labels.values())]

    def suits(self, labels: Mapping[str, str]) -> bool:
        """Compare the labels of a node with those that the worker needs.

        Args:
            labels: labels of the node.

        Returns:
            True if Ray may place the worker there.
        """
        return all(labels.get(key) in values for key, values in self.labels.items())

    @property
    def amounts(self) -> dict[str, float]:
        """Amounts above 0, by Ray's resource names."""
        requested = {"GPU": self.gpus, "CPU": float(self.cpus), "memory": float(self.memory_bytes), **self.custom}
        return {name: amount for name, amount in requested.items() if amount}

    def num_fitting(self, node: Amounts) -> int:
        """Compute how many workers fit on a node.

        Args:
            node: total resources of the node.

        Returns:
            Number of workers, limited by the scarcest resource.
        """
        return min(self._num_fitting(name, each, node.get(name, 0.0)) for name, each in self.amounts.items())

    @staticmethod
    def _num_fitting(name: str, each: float, available: float) -> int:
        if name == "GPU" and each < 1:
            # Ray takes a fraction of a GPU from a single GPU, so what is left over on two GPUs does not add up.
            return int(available) * int(1 / each + _ROUNDING)
        return int(available / each + _ROUNDING)

    @property
    def actor_options(self) -> dict[str, Any]:
        """Keyword arguments of `ray.remote` for an actor with these resources."""
        memory = {"memory": self.memory_bytes} if self.memory_bytes else {}
        options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": dict(self.custom), **memory}
        if self.labels:
            first, *others = self.selectors
            options["label_selector"] = first
            options["fallback_strategy"] = [{"label_selector": selector} for selector in others]
        return options

    def __str__(self) -> str:
        return format_amounts(self.amounts)


def custom_resources(node: Amounts) -> set[str]:
    """Return the names of the custom resources of a node.

    Args:
        node: total resources of the node.

    Returns:
        Names, without those that Ray adds by itself, such as `node:10.0.0.1` or `accelerator_type:A10G`.
    """
    return {name for name in node if name not in _BUILT_IN and ":" not in name}


def format_amounts(amounts: Amounts) -> str:
    """Format amounts of resources for messages, such as "1 GPU and 4 CPUs".

    Args:
        amounts: amounts by Ray's resource names.

    Returns:
        A list in words; empty for no amounts.
    """
    *first, last = (_format_amount(name, amount) for name, amount in amounts.items())
    return f"{', '.join(first)} and {last}" if first else last


def _format_amount(name: str, amount: float) -> str:
    if name in ("memory", "object_store_memory"):
        return f"{amount / 1e9:.3g} GB memory"
    return f"{amount:g} {name}{'' if amount == 1 else 's'}" if name in ("CPU", "GPU") else f"{amount:g} {name}"
