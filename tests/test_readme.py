"""The README's code runs as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
PHYSICS = """
import torch

def energy_rate(field, states):
    return (states * field(states)).sum(1)

def rotations(states, rates):
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    return [(states @ turn, rates @ turn)]
"""


def block(first_line: str) -> str:
    """The block of Python that holds a line."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (found,) = [one for one in blocks if first_line in one]
    return found


def network(num_inputs: int, num_outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(num_inputs, 60), nn.Tanh(), nn.Linear(60, num_outputs)).eval()


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_ten_lines(capsys):
    names: dict[str, Any] = {
        "module": network(30, 3),
        "inputs": drawn(200, 30, seed=1),
        "other_inputs": drawn(100, 30, seed=2),
    }
    exec(block("problem = fip.Problem(  # what must stay"), names)
    assert names["path"].end.sparsity == pytest.approx(0.9, abs=0.01)
    assert "steps were walked" in capsys.readouterr().out
    assert isinstance(names["pruned"], nn.Module)


def test_kept_quantities(tmp_path, monkeypatch):
    (tmp_path / "physics.py").write_text(PHYSICS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import fipray as fip

    states = {"states": drawn(60, 2, seed=1), "other_states": drawn(40, 2, seed=2), "orbits": drawn(50, 2, seed=3)}
    names: dict[str, Any] = {"fip": fip, "field": network(2, 2), **states}
    exec(block('"energy": fip.keeps.Residual("physics:energy_rate"'), names)
    assert set(names["path"].end.distances) == {"field", "energy", "turned", "slopes"}
    assert names["path"].end.distances_held_out["field"] <= 0.1
    sys.modules.pop("physics", None)
