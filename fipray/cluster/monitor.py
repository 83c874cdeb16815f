"""Monitor of the cluster's nodes, capacity and heartbeats, in a thread of its own.

Requests to Ray's control process (GCS) hang once it is gone, and after a minute Ray aborts the whole process without
raising in Python. The monitor notices earlier, so that the run can end with a message.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

import ray

from fipray.cluster.capacity import alive_nodes, num_fitting_workers
from fipray.cluster.heartbeats import Beat, HeartbeatChannel, delete_heartbeats, read_heartbeats
from fipray.cluster.resources import Amounts, WorkerResources
from fipray.errors import ClusterLostError

INTERVAL_SECONDS = 1.0
REFUSED_SECONDS, SILENT_SECONDS = 5.0, 15.0  # after which the control process counts as lost
CONNECT_SECONDS = 3.0
CHECK_SECONDS = 3.0  # a driver that is not stuck calls `check` at least this often
MAX_CHECK_SECONDS = 2.0  # counted between two checks: a driver that was itself suspended has heard nothing


@dataclass(frozen=True)
class ClusterSnapshot:
    """State of the cluster at one moment.

    Args:
        time: moment by the monitor's clock, in seconds.
        nodes: total resources of the nodes that are alive, by node ID.
        num_fitting: number of workers that fit.
        beats: last heartbeats of the watched workers, by key.
    """

    time: float
    nodes: Mapping[str, Amounts] = field(default_factory=dict)
    num_fitting: int = 0
    beats: Mapping[str, Beat] = field(default_factory=dict)


class ClusterMonitor:
    """Context manager that takes a snapshot of the cluster every second.

    Attributes:
        snapshot: the newest snapshot; a new object each time.
        watched: keys of the workers whose heartbeats to read; set by the driver.
        channel: channel of the heartbeats.

    Args:
        resources: resources of each worker.
        channel: channel of the heartbeats; None reads none.
        clock: monotonic clock, in seconds.
        on_stuck: called in the monitor's thread when the control process is gone and the driver hangs in a request to
            it, so that it cannot call `check`.
    """

    def __init__(
        self,
        resources: WorkerResources,
        channel: HeartbeatChannel | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_stuck: Callable[[ClusterLostError], None] | None = None,
    ) -> None:
        self.snapshot = ClusterSnapshot(float("-inf"))
        self.watched: Collection[str] = ()
        self._resources, self.channel, self._clock, self._on_stuck = resources, channel, clock, on_stuck
        self._address = _control_address()
        self._is_refused, self._is_over = False, threading.Event()
        self._silent_seconds, self._last_check, self._last_snapshot = 0.0, clock(), self.snapshot
        self._thread = threading.Thread(target=self._run, name="cluster-monitor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(INTERVAL_SECONDS)

    def check(self) -> None:
        """Check that the control process answers; called by the driver's loop.

        Raises:
            ClusterLostError: after 5 seconds in which its port refused connections, or 15 seconds without an answer.
        """
        now = self._clock()
        self._silent_seconds += min(now - self._last_check, MAX_CHECK_SECONDS)
        self._last_check = now
        if self._last_snapshot is not self.snapshot:
            self._last_snapshot, self._silent_seconds = self.snapshot, 0.0
        if self._silent_seconds > (REFUSED_SECONDS if self._is_refused else SILENT_SECONDS):
            raise self._lost(self._silent_seconds)

    def _lost(self, seconds: float) -> ClusterLostError:
        return ClusterLostError(
            f"Ray's control process (GCS){f' at {self._address}' if self._address else ''} has not answered for "
            f"{seconds:.0f} s{', and its port refuses connections' if self._is_refused else ''}: it died, or its host "
            "is down. Finished jobs are saved. Restart the Ray cluster, unless this command started it, and run the "
            "same command again to resume"
        )

    def _run(self) -> None:
        num_refusals = 0
        while True:
            self._is_refused = not _listens(self._address)
            num_refusals = num_refusals + 1 if self._is_refused else 0
            if self._on_stuck and num_refusals * INTERVAL_SECONDS > REFUSED_SECONDS + CHECK_SECONDS:
                self._on_stuck(self._lost(num_refusals * INTERVAL_SECONDS))
            if not self._is_refused:
                with suppress(Exception):  # a request that fails counts as silence
                    now = self._clock()
                    beats = read_heartbeats(self.watched) if self.channel else {}
                    self.snapshot = ClusterSnapshot(
                        now, alive_nodes(self._resources), num_fitting_workers(self._resources), beats
                    )
            if self._is_over.wait(INTERVAL_SECONDS):
                break
        if self.channel and not self._is_refused:
            with suppress(Exception):
                delete_heartbeats(self.channel)


def _control_address() -> str:
    """HOST:PORT of the control process; empty through Ray's client, where only the client server reaches it."""
    return "" if ray.util.client.ray.is_connected() else str(ray.get_runtime_context().gcs_address)


def _listens(address: str) -> bool:
    """Check that connections are not refused. A socket of our own, because every request of Ray's would hang."""
    if not address:
        return True
    url = urlsplit(f"//{address}")
    try:
        socket.create_connection((url.hostname or "", url.port or 0), timeout=CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # no answer in time is weaker evidence than a refusal, and is left to the longer limit
    return True
