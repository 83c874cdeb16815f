"""Memory of a worker with a large network."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fipray.execution.memory import LARGE, keep_freed_memory

FAULTS = """
import resource
import sys
import torch
from fipray.execution.memory import LARGE, keep_freed_memory

torch.set_num_threads(1)
done = keep_freed_memory(LARGE) if sys.argv[1] == "keep" else False
vector = torch.ones(LARGE)
for _ in range(3):
    vector = vector + 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    vector = vector + 1
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_small_networks_leave_the_allocator_as_it_is():
    assert not keep_freed_memory(LARGE - 1)


@pytest.mark.slow  # two processes that load torch
def test_kept_memory_is_not_faulted_in_again():
    # In processes of their own: the setting lasts as long as its process.
    kept, usual = (
        subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout.split()
        for how in ("keep", "leave")
    )
    if kept[0] == "True":  # not on other C libraries
        # 5 vectors of 16 MB are about 20,000 pages of 4 kB, or 40 huge pages of 2 MB where the system gives those.
        assert int(kept[1]) < max(int(usual[1]), 20)
