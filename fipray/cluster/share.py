"""What one worker takes of a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fipray.errors import UsageError

Amounts = Mapping[str, float]  # of each resource, by Ray's names: CPU, GPU, memory (bytes), and custom ones
_ROUNDING = 1e-9  # three thirds of a GPU are one


@dataclass(frozen=True)
class Share:
    """CPU cores, GPUs (a whole number, or a fraction of one), memory (0: as it comes) and custom resources.

    Ray reserves these; it neither pins cores nor cuts memory off. Raises UsageError for what Ray cannot give.
    """

    cpus: int = 1
    gpus: float = 0.0
    memory_bytes: int = 0
    custom: Amounts = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise UsageError(f"threads per worker are at least 1; {self.cpus} was given")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus % 1):
            raise UsageError(f"GPUs per worker are 0, a fraction of one, or a whole number; {self.gpus:g} was given")
        if self.memory_bytes < 0:
            raise UsageError(f"memory per worker is at least 0 bytes; {self.memory_bytes} was given")
        for name, amount in self.custom.items():
            if name in ("CPU", "GPU", "memory", "object_store_memory"):
                raise UsageError(f"{name} is no custom resource: threads, GPUs and memory per worker have their own")
            if amount <= 0 or (amount > 1 and amount % 1):
                raise UsageError(
                    f"of a custom resource a worker takes a fraction of one, or a whole number; {name}={amount:g} was "
                    "given"
                )

    @property
    def amounts(self) -> dict[str, float]:
        """What is asked for, by Ray's names."""
        asked = {"GPU": self.gpus, "CPU": float(self.cpus), "memory": float(self.memory_bytes), **self.custom}
        return {name: amount for name, amount in asked.items() if amount}

    def fits(self, node: Amounts) -> int:
        """How many workers a node of these resources holds. Ray gives a fraction of a GPU from one GPU alone."""
        return min(self._fits(each, node.get(name, 0.0), whole=name == "GPU") for name, each in self.amounts.items())

    @staticmethod
    def _fits(each: float, there: float, whole: bool) -> int:
        if whole and each < 1:
            return int(there) * int(1 / each + _ROUNDING)
        return int(there / each + _ROUNDING)

    @property
    def options(self) -> dict[str, Any]:
        """As Ray's actors take it."""
        memory = {"memory": self.memory_bytes} if self.memory_bytes else {}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": dict(self.custom), **memory}

    def __str__(self) -> str:
        return listing(self.amounts)


def shown(name: str, amount: float) -> str:
    """An amount of a resource, for people."""
    if name in ("memory", "object_store_memory"):
        return f"{amount / 1e9:.3g} GB memory"
    return f"{amount:g} {name}{'' if amount == 1 else 's'}" if name in ("CPU", "GPU") else f"{amount:g} {name}"


def listing(amounts: Amounts) -> str:
    """Amounts of resources, for people."""
    *first, last = (shown(name, amount) for name, amount in amounts.items())
    return f"{', '.join(first)} and {last}" if first else last
