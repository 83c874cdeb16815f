"""The worked examples of CONTRIBUTING.md, applied to a copy of the package as a contributor would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n# ([^\n]*)\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_each_example_is_one_new_module_and_one_line_of_registration():
    modules = [head for head, _ in BLOCKS if head.startswith("new file: fipray/")]
    lines = [text for head, text in BLOCKS if head.startswith("add to: ")]
    assert len(modules) == len(lines) == 4
    assert all(len(text.strip().splitlines()) == 1 for text in lines)
    columns = [text for head, text in BLOCKS if head.startswith("in: ")]
    assert all(len(text.strip().splitlines()) == 1 for text in columns)


@pytest.mark.slow
@pytest.mark.timeout(600)  # it runs pytest on the copy, a minute where nothing else runs
def test_examples_work_in_a_copy_of_the_package(tmp_path):
    for name in ("fipray", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    tests = [apply(head, text, tmp_path) for head, text in BLOCKS]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *filter(None, tests)]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-1000:]
    # The tests are of the copy: they would not find the new names in the checkout.
    assert re.search(r"[1-9]\d* passed", found.stdout)


def apply(head: str, text: str, root: Path) -> str | None:
    """Carry out one block; return the test file that it makes, if it makes one."""
    if place := re.fullmatch(r"new file: (\S+)", head):
        file = root / place[1]
        assert not file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return place[1] if place[1].startswith("tests/") else None
    if place := re.fullmatch(r"add to: (\S+)", head):
        file = root / place[1]
        file.write_text(file.read_text() + text)
        return None
    place = re.fullmatch(r"in: (\S+), after: (.*)", head)
    assert place is not None, f"unknown kind of block: {head}"
    before, found, after = (root / place[1]).read_text().partition(f"{place[2]}\n")
    assert found, f"{place[1]} has no line {place[2]!r}"
    (root / place[1]).write_text(before + found + text + after)
    return None
