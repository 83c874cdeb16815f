"""Memory of a worker with a large network."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
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


def test_outputs_of_a_large_network_that_are_not_kept_need_not_suit_the_geometry(monkeypatch, tmp_path):
    """Outputs [N, 1, 3] may have classes in either dimension, and only their total is kept."""
    monkeypatch.setattr("fipray.execution.worker.LARGE", 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (1, 3)))
    inputs = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    kept = {"total": fip.keeps.Residual("tests.quantities:total_output")}
    path = fip.PathSpec("walk", fip.objectives.RandomWalk(), num_steps=2)
    study = fip.Study("residual", module, fip.Data(inputs[:15], inputs[15:]), (path,), keeps=kept)
    fip.LocalRunner().run(study, tmp_path)
    assert list(analysis.load(tmp_path).paths["outcome_kind"]) == ["completed"]
