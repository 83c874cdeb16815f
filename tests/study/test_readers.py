"""Processes that read data by reference."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import numpy as np
import pytest

import fipray as fip
from fipray.errors import DataError, UsageError
from fipray.study.referenced import readers
from tests.references import written


def data(name: str, parameters: dict[str, object], **more: object) -> fip.Data:
    return fip.Data.of(fip.DataRef(f"tests.references:{name}", "1", parameters, **more))


@pytest.fixture(autouse=True)
def _ended():
    yield
    readers._pool(2).shutdown()
    readers._pool.cache_clear()


@pytest.mark.parametrize("augments", [False, True])
def test_processes_read_what_the_worker_itself_reads_bit_for_bit(tmp_path, augments):
    parameters = written(tmp_path)
    alone, apart = (data("jittered", parameters, augments=augments, readers=number) for number in (0, 2))
    places = np.array([3, 250, 3, 77, 0])
    for seed in (0, 5):
        np.testing.assert_array_equal(apart.anchors.read(places, seed), alone.anchors.read(places, seed), strict=True)
    assert apart.digest == alone.digest


def test_fewer_examples_than_processes_are_read(tmp_path):
    parameters = written(tmp_path)
    alone, apart = (data("mapped", parameters, readers=number) for number in (0, 2))
    np.testing.assert_array_equal(apart.anchors[:1], alone.anchors[:1], strict=True)


def test_an_example_that_cannot_be_read_is_named(tmp_path):
    parameters = written(tmp_path) | {"index": 7, "value": float("nan")}
    with pytest.raises(DataError, match="example 7 of 'train'"):
        data("broken", parameters, readers=2).anchors[:]


def test_a_process_that_is_killed_is_an_error_that_says_what_to_do_and_the_next_read_works(tmp_path):
    apart = data("mapped", written(tmp_path), readers=2)
    first = apart.anchors[:10]
    for process in readers._pool(2)._processes.values():
        os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(DataError, match="readers=0"):
        apart.anchors[:10]
    np.testing.assert_array_equal(apart.anchors[:10], first)


def test_a_negative_number_is_refused():
    with pytest.raises(UsageError, match="readers"):
        fip.DataRef("tests.references:mapped", "1", readers=-1)


PROGRAM = """
import sys, time
import fipray as fip
from fipray.study.referenced import readers

if __name__ == "__main__":
    ref = fip.DataRef("tests.references:mapped", "1", {"folder": sys.argv[1]}, readers=2)
    fip.Data.of(ref).anchors[:10]
    print(*readers._pool(2)._processes, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes that are not its own, as Linux can")
def test_processes_end_when_the_worker_is_killed(tmp_path):
    given = [sys.executable, "-c", PROGRAM, written(tmp_path)["folder"]]
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as worker:
        readers_of_it = [os.pidfd_open(int(pid)) for pid in worker.stdout.readline().split()]
        assert len(readers_of_it) == 2
        assert select.select(readers_of_it, [], [], 0)[0] == []  # a descriptor is readable once its process has ended
        worker.kill()
    for one in readers_of_it:
        assert select.select([one], [], [], 60)[0] == [one]
        os.close(one)
