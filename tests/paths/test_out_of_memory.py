"""A path whose process is not given the memory for a batch in one pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging
import resource
import torch
from torch import nn
import fipray as fip

logging.basicConfig(level=logging.WARNING, format="%(message)s")
torch.set_num_threads(1)
torch.manual_seed(0)
layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten()]
module = nn.Sequential(*layers, nn.Linear(32 * 32 * 32, 10)).eval()
inputs = torch.rand(600, 3, 32, 32)
problem = fip.Problem(module, inputs, inputs[:64])
settings = fip.Settings(stepper=fip.steppers.FirstOrder(beta=1.0), radius=fip.radii.Scheduled(1e-3), num_steps=2)
objective = fip.objectives.RandomWalk()
divided = fip.Problem(module, inputs[:64], inputs[:8], compute=fip.Compute(micro_batch=4))
fip.trace(divided, objective, settings, batch_size=8)  # loads what is loaded once, for divided passes too
pages = int(open("/proc/self/statm").read().split()[0])
room = pages * resource.getpagesize() + 250 * 2**20  # a pass on 512 inputs keeps more than 500 MB
resource.setrlimit(resource.RLIMIT_AS, (room, room))
path = fip.trace(problem, objective, settings, batch_size=512)
print(path.outcome.kind, problem.network.micro_batch)
"""


@pytest.mark.slow
def test_a_path_goes_on_with_smaller_passes(tmp_path: Path):
    program = tmp_path / "short.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kind, micro_batch = done.stdout.split()
    assert kind == "completed"
    assert 1 <= int(micro_batch) < 512
    assert "memory ran out with passes of" in done.stderr
