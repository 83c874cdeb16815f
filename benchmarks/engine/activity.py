"""What was computed during calls, and what a GPU did meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

# Of a copy to the host, such as `item()`, and of an event. Those of the whole device are the profiler's own.
_WAITS = {"cudaStreamSynchronize", "cudaEventSynchronize"}


@dataclass(frozen=True)
class Activity:
    """Counts and seconds of a GPU.

    Args:
        launches: kernels.
        waits: times that the host waited for the device.
        seconds: summed durations of kernels and copies.
    """

    launches: int
    waits: int
    seconds: float

    @classmethod
    def of(cls, events: Iterable[Any]) -> Activity:
        """Count events of the profiler."""
        launches, waits, microseconds = 0, 0, 0.0
        for event in events:
            if event.device_type.name == "CUDA" and not event.is_user_annotation:
                launches += not event.name.startswith(("Memcpy", "Memset"))
                microseconds += event.time_range.elapsed_us()
            waits += event.name in _WAITS
        return cls(launches, waits, microseconds / 1e6)


def watched(call: Callable[[], object]) -> Activity:
    """Call a function, and count what the GPU does."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as watching:
        call()
        torch.cuda.synchronize()
    return Activity.of(watching.events())


class Operations(TorchDispatchMode):
    """Counts the operations of matrix products and convolutions, two for each multiplication with its addition.

    Unlike torch's `FlopCounterMode` it leaves modules alone, whose hooks do not bear every gradient.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found
