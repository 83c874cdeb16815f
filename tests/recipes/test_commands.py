"""Recipes on the command line, and the study files that they write."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from fipray import analysis, cli, study
from fipray.errors import UsageError
from fipray.recipes import Budget, find
from fipray.recipes.writing import code
from fipray.study import reference
from tests.recipes.conftest import small_data, trained

SUBJECT = ("-p", "module=tests.recipes.test_commands:net", "-p", "data=tests.recipes.test_commands:inputs")


def net():
    return trained()


def inputs():
    return replace(small_data(), notes=("taken from somewhere",))


@pytest.fixture
def fipray(monkeypatch, capsys):
    """Run a command in this process; returns its exit status, and its output on stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fipray", *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setenv("COLUMNS", "200")
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return command


def test_recipes_lists_all_and_the_parameters_of_one(fipray):
    status, out, _ = fipray("recipes")
    assert status == 0
    assert "Prune a network so that it predicts as before" in out
    status, out, _ = fipray("recipes", "prune")
    assert status == 0
    for text in ("-p sparsity=", "-p radius=", "Chosen by a trial", "trained network, in evaluation mode"):
        assert text in out
    assert " 8/255 " in fipray("recipes", "robust-ensemble")[1]
    status, _, err = fipray("recipes", "prone")
    assert (status, "there is no recipe 'prone'; there are: " in err) == (2, True)


def test_run_takes_the_name_of_a_recipe_and_says_what_came_out(fipray, tmp_path):
    arguments = ("run", "prune", *SUBJECT, "-p", "budget=30 steps", "-p", "sparsity=1/2", "-p", "allowance=0.2")
    status, out, _ = fipray(*arguments, "--runner", "local", "--into", tmp_path / "out")
    assert status == 0
    assert "held-out inputs as the best" in out
    assert "has the 50% sparsity that was asked for" in out
    assert "taken from somewhere" in out  # a note of the data
    status, out, err = fipray(*arguments, "--runner", "local", "--into", tmp_path / "out")
    assert (status, "all 1 jobs are already done" in err) == (0, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-p", "sparsity=0.5"], "recipe 'prune' needs module, data"),
        ([*SUBJECT, "-p", "sparsety=0.5"], "has no parameter 'sparsety'; it has: module, data, sparsity"),
        ([*SUBJECT, "-p", "radius=wide"], "parameter radius='wide'"),
        ([*SUBJECT, "-p", "pattern=3:5"], "parameter pattern='3:5'"),
    ],
)
def test_mistakes_are_named_with_status_2(fipray, tmp_path, given, message):
    status, _, err = fipray("run", "prune", *given, "--runner", "local", "--into", tmp_path / "out")
    assert (status, message in err) == (2, True), err


def test_new_writes_a_study_file_that_is_the_recipes_study(fipray, tmp_path):
    file = tmp_path / "mystudy.py"
    given = ("-p", "budget=20 steps", "-p", "sparsity=0.5", "-p", "radius=0.05")
    assert fipray("new", "prune", file, *SUBJECT, *given)[0] == 0
    made = reference.build(reference.find(f"{file}:study"), {}, study.Study)
    texts = [text for text in (*SUBJECT, *given) if text != "-p"]
    expected = find("prune").made(texts)
    # The trial may choose otherwise in a second run only where it measures time, which a budget of steps does not.
    assert made.path_ids == expected.study.path_ids
    status, _, err = fipray("new", "prune", file)
    assert (status, "exists already" in err) == (2, True)
    assert fipray("new", "prune", tmp_path / "my-study.py")[0] == 2


def test_new_without_a_subject_runs_as_it_is(fipray, tmp_path):
    file = tmp_path / "example_study.py"
    assert fipray("new", "prune", file, "-p", "budget=20 steps")[0] == 0
    assert fipray("run", f"{file}:study", "--runner", "local", "--into", tmp_path / "out")[0] == 0
    assert len(analysis.load(tmp_path / "out").variants) >= 1


def test_code_of_an_unexported_class_is_refused():
    with pytest.raises(UsageError, match="_Budget has no public name"):
        code(_Budget(1.0))


class _Budget(Budget):
    """A spec that is no name of fipray."""
