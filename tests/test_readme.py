"""The code of the README runs as it stands, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tests import pages

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PHYSICS = """
import torch

def energy_rate(field, states):
    return (states * field(states)).sum(1)

def rotations(states, rates):
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    return [(states @ turn, rates @ turn)]
"""
MYMODULE = """
import numpy as np
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 3)).eval()

def arrays():
    inputs = np.random.default_rng(0).random((300, 12), dtype=np.float32)
    labels = net()(torch.from_numpy(inputs)).argmax(1).numpy()
    parts = {"anchors": inputs[:200], "held_out": inputs[200:250], "test_inputs": inputs[250:]}
    return {**parts, "test_labels": labels[250:]}
"""


def blocks(language: str) -> list[str]:
    """All blocks of a language, "" for commands."""
    fences = re.split(r"^```(.*)$\n?", README, flags=re.MULTILINE)[1:]
    return [text for name, text in zip(fences[::4], fences[1::4], strict=True) if name == language]


def block(words: str) -> str:
    """The block of Python that holds these words."""
    (found,) = [one for one in blocks("python") if words in one]
    return found


def network(num_inputs: int, num_outputs: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(num_inputs, 60), nn.Tanh(), nn.Linear(60, num_outputs)).eval()


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_path(capsys):
    names: dict[str, Any] = {
        "module": network(30, 3),
        "inputs": drawn(200, 30, seed=1),
        "other_inputs": drawn(100, 30, seed=2),
    }
    exec(block("problem = fip.Problem(module"), names)
    assert names["path"].end.sparsity == pytest.approx(0.9, abs=0.01)
    assert str(names["path"].outcome) in capsys.readouterr().out
    assert isinstance(names["pruned"], nn.Module)


def test_the_short_form():
    import fipray as fip

    (line,) = re.findall(r"`(fip\.trace\(module, [^`]*)`", README)
    given = {"module": network(30, 3), "inputs": drawn(200, 30, seed=1), "other_inputs": drawn(100, 30, seed=2)}
    assert eval(line, {"fip": fip, **given}).end.step == 50


def test_kept_quantities(tmp_path, monkeypatch):
    import fipray as fip

    (tmp_path / "physics.py").write_text(PHYSICS)
    monkeypatch.syspath_prepend(str(tmp_path))
    states = {"states": drawn(60, 2, seed=1), "other_states": drawn(40, 2, seed=2), "orbits": drawn(50, 2, seed=3)}
    names: dict[str, Any] = {"fip": fip, "field": network(2, 2), **states}
    exec(block('"energy": fip.keeps.Residual("physics:energy_rate"'), names)
    assert set(names["path"].end.distances) == {"field", "energy", "turned", "slopes"}
    assert names["path"].end.distances_held_out["field"] <= 0.1
    sys.modules.pop("physics", None)


def test_the_study_its_commands_and_its_results(tmp_path, monkeypatch, capsys):
    from fipray.cli.entry import app

    (tmp_path / "mymodule.py").write_text(MYMODULE)
    (tmp_path / "mystudies.py").write_text(block("# mystudies.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (commands,) = [one for one in blocks("") if "fipray run" in one]
    lines = [shlex.split(line, comments=True)[1:] for line in commands.splitlines()]
    assert [line[0] for line in lines] == ["run", "run", "show", "report"]
    quick = ["-p", "num_steps=4"]
    for line in ([*lines[0], "--runner", "local", *quick], [*lines[1], *quick], *lines[2:]):
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output
    exec(block("from fipray import analysis"), {})
    assert "diverse-1" in capsys.readouterr().out
    assert (tmp_path / "robustness.png").stat().st_size > 10_000
    assert "diverse-1" in (tmp_path / "diverse.html").read_text(encoding="utf-8")
    for name in ("mymodule", "mystudies"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *pages.PAGES])
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    files = [(ROOT / page).parent / target for target in targets]
    # A notebook is a page of the site under its name.
    assert [file for file in files if not (file.exists() or file.with_suffix(".ipynb").exists())] == []
