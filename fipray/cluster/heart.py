"""How a worker says how far it is: from a thread of its own, in Ray's key-value store, where the driver looks.

The thread speaks while the code of a study computes. It is silent when the whole process stands still, or when a call
into C keeps Python's lock: both mean the same to the driver, and that is as it should be.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:  # loads torch
    from fipray.execution.heartbeat import Heartbeat

_NAMESPACE = b"fipray-heartbeats"
BEATS_IN_STALL = 8  # as many times a worker speaks within the time after which it counts as stalled


@dataclass(frozen=True)
class Pulse:
    """Where workers of one run speak: their keys begin with `run`."""

    run: str
    seconds: float  # between two beats

    def key(self, worker: object) -> str:
        return f"{self.run}/{worker}"


@dataclass(frozen=True)
class Beat:
    """What a worker last said: see `Heartbeat`; and where its process is."""

    count: int
    step: int | None
    has_begun: bool
    node_id: str
    process: int


class Heart:
    """Says what a worker has got done, under `key`, as often as `pulse` says."""

    def __init__(self, pulse: Pulse, key: str, heartbeat: Heartbeat) -> None:
        self.key, self._heartbeat, self._seconds = key, heartbeat, pulse.seconds
        self._where = ray.get_runtime_context().get_node_id(), os.getpid()
        threading.Thread(target=self._speak, name="heart", daemon=True).start()

    def _speak(self) -> None:
        said: object = None
        while True:
            now = self.key, self._heartbeat.count, self._heartbeat.step, self._heartbeat.has_begun
            if now != said:
                try:
                    internal_kv._internal_kv_put(
                        self.key.encode(), json.dumps([*now[1:], *self._where]).encode(), True, namespace=_NAMESPACE
                    )
                    said = now
                except Exception:  # the control process may be gone for a while
                    pass
            time.sleep(self._seconds)


def beats_of(keys: Iterable[str]) -> dict[str, Beat]:
    """What workers said, those of them that have spoken. A call to the control process each."""
    said = {key: internal_kv._internal_kv_get(key.encode(), namespace=_NAMESPACE) for key in keys}
    return {key: Beat(*json.loads(text)) for key, text in said.items() if text}


def forget(pulse: Pulse) -> None:
    internal_kv._internal_kv_del(pulse.key("").encode(), del_by_prefix=True, namespace=_NAMESPACE)


def end_process(beat: Beat) -> None:
    """Kill a worker's process from a task on its node: one that is stopped answers no other request."""
    there = NodeAffinitySchedulingStrategy(beat.node_id, soft=False)
    _kill.options(scheduling_strategy=there).remote(beat.process)


@ray.remote(num_cpus=0, max_retries=0)
def _kill(process: int) -> Any:
    os.kill(process, signal.SIGKILL)
