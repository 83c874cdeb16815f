"""What is seen of the cluster, from a thread of its own: such calls hang where Ray's control process (GCS) is gone.

After a minute of that Ray ends the whole process without a word to Python, so a run ends first, and says why.
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

from fipray.cluster.capacity import alive_nodes, workers_that_fit
from fipray.cluster.heart import Beat, Pulse, beats_of, forget
from fipray.cluster.share import Amounts, Share
from fipray.errors import ClusterLostError

LOOK_SECONDS = 1.0
REFUSED_SECONDS, SILENT_SECONDS = 5.0, 15.0  # until the control process counts as gone
PROBE_SECONDS = 3.0
CHECK_SECONDS = 3.0  # within which a driver that is not stuck has checked
LONGEST_TICK = 2.0  # seconds between two checks that count: a driver that was stopped itself has heard nothing


@dataclass(frozen=True)
class View:
    """The cluster at a moment of `time.monotonic`: nodes by id, how many workers fit, and what workers said."""

    at: float
    nodes: Mapping[str, Amounts] = field(default_factory=dict)
    fit: int = 0
    beats: Mapping[str, Beat] = field(default_factory=dict)


class Lookout:
    """Looks at the cluster every second while the context is open.

    on_stuck: is told, in that thread, where the control process is gone and nobody checks, as in a call that hangs.
    view: the newest one. watched: keys of workers whose beats are asked for, where there is a pulse.
    """

    def __init__(
        self,
        share: Share,
        pulse: Pulse | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_stuck: Callable[[ClusterLostError], None] | None = None,
    ) -> None:
        self.view = View(float("-inf"))
        self.watched: Collection[str] = ()
        self._share, self.pulse, self._clock, self._on_stuck = share, pulse, clock, on_stuck
        self._address = _control_address()
        self._is_refused, self._over = False, threading.Event()
        self._silence, self._checked, self._last = 0.0, clock(), self.view
        self._thread = threading.Thread(target=self._look, name="lookout", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(LOOK_SECONDS)

    def check(self) -> None:
        """Raises ClusterLostError when the control process has not answered for some seconds."""
        now = self._clock()
        self._silence += min(now - self._checked, LONGEST_TICK)
        self._checked = now
        if self._last is not self.view:
            self._last, self._silence = self.view, 0.0
        if self._silence > (REFUSED_SECONDS if self._is_refused else SILENT_SECONDS):
            raise self._lost(self._silence)

    def _lost(self, seconds: float) -> ClusterLostError:
        return ClusterLostError(
            f"Ray's control process (GCS){f' at {self._address}' if self._address else ''} has not answered for "
            f"{seconds:.0f} s{', and nothing listens there' if self._is_refused else ''}: it has died, or its machine "
            "is gone. What is done is kept. Start Ray again where it was not started by this command; then the same "
            "command goes on"
        )

    def _look(self) -> None:
        refusals = 0
        while True:
            self._is_refused = not _listens(self._address)
            refusals = refusals + 1 if self._is_refused else 0
            if self._on_stuck and refusals * LOOK_SECONDS > REFUSED_SECONDS + CHECK_SECONDS:
                self._on_stuck(self._lost(refusals * LOOK_SECONDS))
            if not self._is_refused:
                with suppress(Exception):  # what is not answered counts as silence
                    at = self._clock()
                    beats = beats_of(self.watched) if self.pulse else {}
                    self.view = View(at, alive_nodes(), workers_that_fit(self._share), beats)
            if self._over.wait(LOOK_SECONDS):
                break
        if self.pulse and not self._is_refused:
            with suppress(Exception):
                forget(self.pulse)


def _control_address() -> str:
    """HOST:PORT of the control process; empty through Ray's client, which alone reaches it."""
    return "" if ray.util.client.ray.is_connected() else str(ray.get_runtime_context().gcs_address)


def _listens(address: str) -> bool:
    """False where the connection is refused. Asked first, as nothing else of Ray's returns then."""
    if not address:
        return True
    host = urlsplit(f"//{address}")
    try:
        socket.create_connection((host.hostname or "", host.port or 0), timeout=PROBE_SECONDS).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True  # no answer, which is less than a no
    return True
