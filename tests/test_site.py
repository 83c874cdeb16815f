"""The documentation site builds without a warning, and needs no other host to be read."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.pages import PAGES

ROOT = Path(__file__).parents[1]
NAVIGATION = re.findall(r": ([\w/-]+\.md)$|^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
LISTED = {"docs/" + (named or alone) for named, alone in NAVIGATION}


def hooks():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("hooks")
    finally:
        sys.path.remove(str(ROOT / "docs"))


def test_every_page_is_in_the_navigation_and_every_entry_has_a_page():
    notebooks = {f"docs/notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb")}
    assert set(PAGES) | notebooks == LISTED


def test_the_reference_documents_every_public_name_of_every_namespace():
    documented = set(hooks().homes())
    namespaces = [
        "paths.objectives",
        "paths.steppers",
        "paths.radii",
        "paths.events",
        "paths.sparsity",
        "robustness.attacks",
        "robustness.measures",
        "geometry.keeps",
        "study",
        "analysis",
        "errors",
    ]
    for name in namespaces:
        module = importlib.import_module(f"fipray.{name}")
        missing = [each for each in hooks().public(module) if hooks().place(getattr(module, each)) not in documented]
        assert missing == [], name


def test_the_table_of_tables_has_every_column():
    from fipray.records import TABLES

    text = hooks().tables()
    assert re.findall(r"^## (\w+)$", text, flags=re.MULTILINE) == list(TABLES)
    assert text.count("\n| `") == sum(len(table.columns) for table in TABLES.values())


def test_the_page_of_commands_has_every_command_and_option():
    from fipray.cli.entry import app

    text = hooks().commands()
    names = [command.name for command in app.registered_commands]
    assert sorted(re.findall(r"^## fipray (\S+)$", text, flags=re.MULTILINE)) == sorted(names)
    assert "| `--into` |" in text


class Loads(HTMLParser):
    """Addresses that a browser fetches when it shows a page, as opposed to links to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address and given.get("rel") != "canonical":
            self.found.append(address)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == len(LISTED) + 1  # 404.html
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert [address for address in loads.found if "//" in address] == [], page.name
    for style in (tmp_path / "site").rglob("*.css"):
        assert "url(http" not in style.read_text(encoding="utf-8")
