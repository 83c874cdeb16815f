"""Causes of lost workers."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import ray

from fipray.cluster.failure_causes import failure_cause
from fipray.cluster.worker_actor import WorkerLocation

DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: Actor\nThe actor is dead because its "
    "worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            f"{DIED}Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include",
            "its process ended without a message (a crash, os._exit, a kill signal, or the host ran out of memory)",
        ),
        (f"{DIED}Worker exits unexpectedly. Worker exits with an exit code 4.", "its process ended with exit code 4"),
        (
            "The actor died because of an error raised in its creation task, \x1b[36mray::Actor.__init__()\x1b[39m "
            "(pid=1)\n  File x\nModuleNotFoundError: No module named 'mine'",
            "ModuleNotFoundError: No module named 'mine'",
        ),
    ],
)
def test_failure_cause_is_one_line(message, cause):
    error = ray.exceptions.RayActorError(error_msg=message)
    assert failure_cause(error) == cause


def test_failure_cause_finds_a_crash_in_the_log_of_the_worker(tmp_path):
    log = tmp_path / "worker.err"
    code = "import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)"
    with log.open("wb") as stream:
        subprocess.run([sys.executable, "-c", code], stderr=stream, check=False)
    location = WorkerLocation("node", socket.gethostname(), 1, str(log))
    assert failure_cause(ray.exceptions.RayActorError(), location).startswith("its process crashed: Segmentation fault")
