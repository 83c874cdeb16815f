"""The code of every page of the documentation runs, in order, and its command lines are those of the program."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import pytest
import typer
from typer.testing import CliRunner

from fipray.cli.entry import app
from tests.pages import PAGES, blocks_of, module_of_the_pages

# Pages whose code takes a second or two; the others take up to half a minute each.
QUICK = {"docs/index.md", "docs/method.md", "docs/search.md", "docs/extending.md"}
WITH_CODE = [page for page in PAGES if any(one.language == "python" for one in blocks_of(page))]
WITH_COMMANDS = [page for page in PAGES if any(one.commands for one in blocks_of(page))]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Where a reader of the page stands: an empty folder with `mymodule.py` in it."""
    (tmp_path / "mymodule.py").write_text(module_of_the_pages())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known, backend = set(sys.modules), mpl.get_backend()
    mpl.use("Agg")
    yield tmp_path
    mpl.use(backend)
    for name in set(sys.modules) - known:
        if (Path(tmp_path) / f"{name}.py").exists():
            del sys.modules[name]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", [pytest.param(p, marks=() if p in QUICK else pytest.mark.slow) for p in WITH_CODE])
def test_code_of_a_page_runs(page, reader):
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        if block.title:
            (reader / block.title).write_text(block.text)
        elif block.language == "python":
            exec(compile(block.text, page, "exec"), names)
        for command in filter(lambda each: runs_here(each, reader), block.commands):
            found = CliRunner().invoke(app, here(command))
            assert found.exit_code == 0, f"{command}: {found.output} {found.exception}"


def runs_here(command: list[str], folder: Path) -> bool:
    """Whether a reader of the page alone can run a command: its study, or the results it reads, are there."""
    name, *rest = command
    if name == "run":
        named = next((text.partition("=")[2] for text in rest if text.startswith("module=")), rest[0])  # of a recipe
        module = named.partition(":")[0]
        return (folder / f"{module}.py").exists() and "--address" not in rest
    return name in ("show", "verify", "compact", "export") and (folder / rest[0]).is_dir()


def here(command: list[str]) -> list[str]:
    """Command in this process, where it would start Ray."""
    return [*command, "--runner", "local"] if command[0] == "run" and "--runner" not in command else command


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_command_lines_of_a_page_are_understood(page):
    group: Any = typer.main.get_command(app)
    for block in blocks_of(page):
        for name, *rest in block.commands:
            command = group.commands[name]
            command.make_context(name, list(rest), parent=click.Context(group))
