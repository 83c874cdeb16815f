"""Names and commands in the pages are those of the code."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

import fipray as fip
from fipray import analysis
from fipray.study import reference
from fipray.study.parameters import parse
from tests import pages

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "deploy/README.md", *pages.PAGES]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
# What the worked examples of CONTRIBUTING.md add to the package, and a name that stands for any.
EXAMPLES = {"WeightNorm", "Sign", "UniformNoise", "CentredOutputs", "X"}


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_the_library_exists(page):
    # The changelog's tables hold old names in their first columns.
    text = re.sub(r"^\| `fip\.\w+` \|", "", TEXTS[page], flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", text)  # a page may be named fip.md
    missing = []
    for dotted in set(re.findall(r"\bfip\.((?:\w+\.)*[A-Za-z_]\w*)", text)):
        found: object = fip
        for name in dotted.split("."):
            if name in EXAMPLES or isinstance(found, type):
                break
            if not hasattr(found, name):
                missing.append(dotted)
                break
            found = getattr(found, name)
    missing += [
        f"analysis.{name}" for name in set(re.findall(r"\banalysis\.(\w+)\(", text)) if not hasattr(analysis, name)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_is_run_exists(page):
    modules = set(re.findall(r"python -m\s+(benchmarks(?:\.\w+)*)", TEXTS[page]))
    found = {
        name: importlib.util.find_spec(f"{name}.__main__") if is_package(name) else importlib.util.find_spec(name)
        for name in modules
    }
    assert [name for name, spec in found.items() if spec is None] == []


def is_package(name: str) -> bool:
    return (ROOT / name.replace(".", "/")).is_dir()


@pytest.mark.parametrize("page", PAGES)
def test_every_study_of_ours_exists_and_takes_its_parameters(page):
    for line in re.findall(r"^fipray (?:run|search) (experiments\..*)$", TEXTS[page], flags=re.MULTILINE):
        name, *rest = shlex.split(line, comments=True)
        function = reference.find(name)
        given = [value for option, value in pairwise(rest) if option == "-p"]
        parsed = parse(function, given)
        assert set(parsed) <= set(inspect.signature(function).parameters)
