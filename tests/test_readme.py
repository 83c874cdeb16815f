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
MYMODULE = """
import numpy as np
import torch
from torch import nn

import fipray as fip

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 3)).eval()

images = np.random.default_rng(0).random((300, 1, 8, 8), dtype=np.float32)
labels = net()(torch.from_numpy(images)).argmax(1).numpy()

def data():
    return fip.Data.of((images, labels))
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


def test_the_short_form():
    import fipray as fip

    (line,) = re.findall(r"`(fip\.trace\(module, [^`]*)`", README)
    given = {"module": network(30, 3), "inputs": drawn(200, 30, seed=1), "other_inputs": drawn(100, 30, seed=2)}
    assert eval(line, {"fip": fip, **given}).end.step == 50


@pytest.mark.timeout(300)
def test_the_recipe_its_commands_and_its_results(tmp_path, monkeypatch, capsys):
    from fipray.cli.entry import app

    (tmp_path / "mymodule.py").write_text(MYMODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Any] = {}
    exec(quick(block("fip.recipes.prune(")), names)
    assert isinstance(names["pruned"], nn.Module)
    assert "'pruned' " in capsys.readouterr().out
    (commands,) = [one for one in blocks("") if "fipray run" in one]
    assert commands.count("1 min") == README.count("1 min") - 1 == 1
    lines = [shlex.split(quick(line), comments=True)[1:] for line in commands.splitlines()]
    assert [line[0] for line in lines] == ["run", "report"]
    for line in ([*lines[0], "--runner", "local"], lines[1]):
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output
    assert "pruning" in (tmp_path / "report.html").read_text(encoding="utf-8")
    exec(block("from fipray import analysis"), {})
    assert "pruning" in capsys.readouterr().out
    assert (tmp_path / "sparsity.pdf").stat().st_size > 5_000
    sys.modules.pop("mymodule", None)


def quick(text: str) -> str:
    """The same with a budget of a few steps in place of a minute."""
    return text.replace("1 min", "30 steps")


def test_it_fits_on_few_screens():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *pages.PAGES])
def test_links_to_files_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    files = [(ROOT / page).parent / target for target in targets]
    # A notebook is a page of the site under its name.
    assert [file for file in files if not (file.exists() or file.with_suffix(".ipynb").exists())] == []
