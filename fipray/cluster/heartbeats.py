"""Heartbeats: each worker writes its progress from a thread into Ray's key-value store, and the driver reads it there.

The thread runs while the study's code computes. It falls silent if the whole process is stopped or a call into C holds
Python's global lock; the driver treats both as a stall.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.experimental import internal_kv
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

if TYPE_CHECKING:  # it imports torch, and a cluster that is too small must be reported before that
    from fipray.execution.heartbeat import Heartbeat
    from fipray.execution.jobs import Job
    from fipray.execution.listeners import Listener

_NAMESPACE = b"fipray-heartbeats"
PROGRESS_SECONDS = 1.0  # between two heartbeats, for the progress of jobs
BEATS_PER_STALL = 8  # heartbeats within the time after which a worker counts as stalled


@dataclass(frozen=True)
class HeartbeatChannel:
    """Key prefix and interval of the heartbeats of one run.

    Args:
        run: prefix of all keys, unique to the run.
        seconds: interval between two heartbeats.
    """

    run: str
    seconds: float

    def key(self, worker: object) -> str:
        """Key of a worker's heartbeats.

        Args:
            worker: its number or name, unique in the run.

        Returns:
            The key.
        """
        return f"{self.run}/{worker}"


@dataclass(frozen=True)
class Beat:
    """Last heartbeat of a worker.

    Args:
        count: signs of progress since the worker started, see `Heartbeat`.
        step: last finished step of the current path; None before the first step and for other jobs.
        has_begun: whether the current job is past its first step or forward pass.
        node_id: node of the worker's process.
        process_id: process ID on that node.
        job: ID of the current job.
        stage: what the job is doing besides steps; empty for a path that walks.
    """

    count: int
    step: int | None
    has_begun: bool
    node_id: str
    process_id: int
    job: str = ""
    stage: str = ""


def progress_channel() -> HeartbeatChannel:
    """Create a channel for a run without a stall limit."""
    return HeartbeatChannel(secrets.token_hex(8), PROGRESS_SECONDS)


def report_progress(beat: Beat | None, job: Job, listener: Listener, about: Job | None = None) -> None:
    """Report a heartbeat to a listener.

    Args:
        beat: last heartbeat of the job's worker; None for none.
        job: the job. A heartbeat of an earlier job of that worker is not reported.
        listener: receives the report.
        about: job to which the listener is told it belongs, such as the path of a trial; None for `job` itself.
    """
    if beat is None or beat.job != job.id:
        return
    if beat.step is not None:
        listener.progressed(about or job, beat.step)
    listener.stage(about or job, beat.stage)


class HeartbeatSender:
    """Thread in a worker's process that writes its heartbeats. It ends with the process.

    Args:
        channel: channel of the run.
        key: key to write under; may be set to another one later.
        heartbeat: progress counter of the worker.
    """

    def __init__(self, channel: HeartbeatChannel, key: str, heartbeat: Heartbeat) -> None:
        self.key, self._heartbeat, self._seconds = key, heartbeat, channel.seconds
        self._process = ray.get_runtime_context().get_node_id(), os.getpid()
        threading.Thread(target=self._send, name="heartbeats", daemon=True).start()

    def _send(self) -> None:
        sent: object = None
        while True:
            heart = self._heartbeat
            now = self.key, heart.count, heart.step, heart.has_begun, heart.job, heart.where
            if now != sent:  # the driver looks at changes alone, so equal heartbeats need no request
                try:
                    internal_kv._internal_kv_put(
                        self.key.encode(),
                        json.dumps([*now[1:4], *self._process, *now[4:]]).encode(),
                        True,
                        namespace=_NAMESPACE,
                    )
                    sent = now
                except Exception:  # the control process may be unreachable for a while: try again
                    pass
            time.sleep(self._seconds)


def read_heartbeats(keys: Iterable[str]) -> dict[str, Beat]:
    """Read the last heartbeats of workers, with one request to the control process per key.

    Args:
        keys: keys of the workers.

    Returns:
        Heartbeats by key, without workers that have sent none yet.
    """
    found = {key: internal_kv._internal_kv_get(key.encode(), namespace=_NAMESPACE) for key in keys}
    return {key: Beat(*json.loads(text)) for key, text in found.items() if text}


def delete_heartbeats(channel: HeartbeatChannel) -> None:
    """Delete all heartbeats of a run.

    Args:
        channel: channel of the run.
    """
    internal_kv._internal_kv_del(channel.key("").encode(), del_by_prefix=True, namespace=_NAMESPACE)


def kill_process(beat: Beat) -> None:
    """Kill a worker's process with SIGKILL, from a task on its node: a stopped process handles no request of Ray's.

    Args:
        beat: a heartbeat of the worker.
    """
    on_node = NodeAffinitySchedulingStrategy(beat.node_id, soft=False)
    _kill.options(scheduling_strategy=on_node).remote(beat.process_id)


@ray.remote(num_cpus=0, max_retries=0)  # the stalled worker may hold the node's last CPU
def _kill(process_id: int) -> Any:
    os.kill(process_id, signal.SIGKILL)
