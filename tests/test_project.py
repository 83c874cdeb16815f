"""What is true of the project as a whole: its versions, its commands, what it depends on and what it may not hold."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import fipray
from fipray.moved import MOVED

ROOT = Path(__file__).parents[1]


def committed() -> list[Path]:
    """The files that are in the repository or about to be; none where this is no git checkout."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        answer = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if answer.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in answer.stdout.split("\0") if name and (ROOT / name).is_file()]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines)


def test_constraints_are_names_and_exact_versions_alone():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert len(constraints()) == len(lines), "a name stands there twice"


def test_every_dependency_has_a_lower_bound_and_a_constraint():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    for requirement in asked:
        if re.fullmatch(r"fipray\[[\w,]+\]", requirement):  # another extra
            continue
        name = re.fullmatch(r"([\w.-]+)(\[[\w,]+\])?>=[\d.]+", requirement)
        assert name, f"{requirement!r} is not a name and a lower bound"
        assert canonical(name[1]) in constraints()


def test_the_changelog_begins_with_unreleased_changes_and_the_version_of_the_package():
    versions = re.findall(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert versions[:2] == ["Unreleased", fipray.__version__]


def test_ci_runs_the_test_command_of_the_readme():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert {"make test", "make test-pages"} <= set(lines)
    assert re.search(r"^\$? ?make test\b", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


def test_importing_fipray_loads_no_heavy_library():
    code = "import sys, fipray; print(sorted({'torch', 'ray', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_reading_results_loads_neither_torch_nor_ray():
    code = "import sys; from fipray import analysis; print(sorted({'torch', 'ray', 'torchvision'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_showing_results_on_the_command_line_loads_neither_torch_nor_ray():
    code = (
        "import sys; from fipray.cli import entry, results; from fipray.terminal import print_summary; "
        "print(sorted({'torch', 'ray', 'torchvision'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


HIDING = """
import sys


class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.parametrize(
    ("hidden", "code", "sentence"),
    [
        ("torch", "fipray.trace", "fipray.trace needs torch, which is not installed: pip install 'fipray[torch]'"),
        ("ray", "fipray.RayRunner", "fipray.RayRunner needs ray, which is not installed: pip install 'fipray[ray]'"),
        pytest.param(
            "optuna",
            "fipray.search.run(*tests.studies.local_search())",
            "this search needs optuna, which is not installed: pip install 'fipray[search]'",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_missing_package_is_said_with_the_command_that_installs_it(hidden, code, sentence, tmp_path):
    needed = "import tests.studies\n" if "tests" in code else ""
    script = (
        f"HIDDEN = [{hidden!r}]\n{HIDING}\nimport fipray\n{needed}"
        f"try:\n    {code}\nexcept fipray.errors.MissingPackageError as error:\n    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert sentence in ran.stdout, ran.stderr


def test_type_checkers_see_the_names_that_are_loaded_on_first_use():
    shown = {
        alias.name
        for node in ast.walk(ast.parse((ROOT / "fipray" / "__init__.pyi").read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert shown == set(fipray.__all__) - {"__version__"}
    for name in shown:
        assert getattr(fipray, name).__name__.rpartition(".")[2] == name


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(AttributeError, match=r"has no name 'Sparsity'; it has: .*trace"):
        _ = fipray.Sparsity


@pytest.mark.parametrize(("name", "place"), MOVED.items())
def test_a_name_that_moved_still_works_and_says_where_it_is(name, place):
    with pytest.warns(DeprecationWarning, match=rf"fipray.{name} is now fipray.{place}"):
        found = getattr(fipray, name)
    namespace, _, moved = place.partition(".")
    assert found is getattr(getattr(fipray, namespace), moved)


def test_torch_has_one_thread():
    assert torch.get_num_threads() == 1


# Written in parts, so that this file holds none of them.
FORBIDDEN = {
    "an absolute path of one machine": re.compile(r"(?<![\w.~$}/-])/(?:" + "root|work|home/[a-z]+|Users/[A-Za-z]+)/"),
    "the address of a package registry": re.compile(
        "|".join(["py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.org"])
    ),
    "an option that names a package index": re.compile("--(?:extra-)?" + "index-url|--find" + "-links"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_committed_file_holds(what: str):
    found = []
    for file in committed():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text
        found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in FORBIDDEN[what].finditer(text)]
    assert found == []
