"""Recipes on the command line, and the study files that they write."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from fipray import analysis, cli, study
from fipray.errors import UsageError
from fipray.recipes import Budget, find
from fipray.recipes.writing import code
from fipray.records import Store
from fipray.study import reference
from tests.recipes.conftest import small_data, trained

SUBJECT = ("-p", "module=tests.recipes.test_commands:net", "-p", "data=tests.recipes.test_commands:inputs")


def net():
    return trained()


def double():
    return trained().double()


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


PASSES = ("--precision", "bf16", "--micro-batch", "16", "--channels-last", "--deterministic")
COMPUTE = {"precision": "bf16", "micro_batch": 16, "channels_last": True, "deterministic": True}


@pytest.fixture
def any_bits():
    """Switch deterministic algorithms of the process off again."""
    yield
    torch.use_deterministic_algorithms(False)


def test_run_takes_how_passes_are_computed_and_resumes_with_the_same(fipray, tmp_path, any_bits):
    arguments = ("run", "prune", *SUBJECT, "-p", "budget=6 steps", "-p", "sparsity=0.5", "--runner", "local")
    arguments = (*arguments, "--into", tmp_path / "out")
    assert fipray(*arguments, *PASSES)[0] == 0
    assert Store.open(tmp_path / "out").manifest["compute"] == COMPUTE
    for more in ((), ("--micro-batch", "8"), ("--no-channels-last",)):
        status, _, err = fipray(*arguments, *more)
        assert (status, "all 2 jobs are already done" in err) == (0, True), err
    status, _, err = fipray(*arguments, "--precision", "fp32")
    assert status == 2
    assert "holds results in precision 'bf16', and 'fp32' is asked for: choose another directory" in err


def test_search_of_a_recipe_takes_how_passes_are_computed(fipray, tmp_path, any_bits):
    arguments = ("search", "prune", *SUBJECT, "-p", "budget=6 steps", "-p", "sparsity=0.5", "--runner", "local")
    status, _, err = fipray(*arguments, *PASSES, "--trials", 2, "--searcher", "random", "--into", tmp_path / "out")
    assert status == 0, err
    assert Store.open(tmp_path / "out").manifest["compute"] == COMPUTE


def test_options_replace_how_a_study_of_ones_own_computes_its_passes(fipray, tmp_path):
    file = tmp_path / "own_study.py"
    file.write_text(
        "import fipray as fip\n"
        "from tests.recipes.conftest import small_data, trained\n\n\n"
        "def study() -> fip.Study:\n"
        "    path = fip.PathSpec('walk', fip.objectives.RandomWalk(), num_steps=2)\n"
        "    compute = fip.Compute(precision='bf16', micro_batch=4)\n"
        "    return fip.Study('own', trained(), small_data(), (path,), compute=compute)\n"
    )
    arguments = ("run", f"{file}:study", "--runner", "local", "--into")
    assert fipray(*arguments, tmp_path / "as-it-is")[0] == 0
    assert fipray(*arguments, tmp_path / "other", "--micro-batch", "9")[0] == 0
    found = [Store.open(tmp_path / name).manifest["compute"] for name in ("as-it-is", "other")]
    assert [(one["precision"], one["micro_batch"]) for one in found] == [("bf16", 4), ("bf16", 9)]
    status, _, err = fipray(*arguments, tmp_path / "other", "--precision", "fp32")
    assert (status, "precision is 'bf16' there and 'fp32' here" in err) == (2, True), err


@pytest.mark.parametrize("command", ["run", "search"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--precision", "fp16"), "--precision must be one of fp32, tf32, bf16; got 'fp16'"),
        (("--micro-batch", "0"), "--micro-batch is a number of inputs, at least 1; got 0"),
        (("--micro-batch", "many"), "Invalid value for '--micro-batch'"),
    ],
)
def test_impossible_passes_are_refused_with_status_2(fipray, tmp_path, command, given, message):
    status, _, err = fipray(command, "prune", *SUBJECT, *given, "--runner", "local", "--into", tmp_path / "out")
    assert (status, message in err) == (2, True), err


def test_weights_in_double_precision_are_not_rounded(fipray, tmp_path):
    subject = ("-p", "module=tests.recipes.test_commands:double", *SUBJECT[2:])
    status, _, err = fipray(
        "run", "prune", *subject, "--precision", "bf16", "--runner", "local", "--into", tmp_path / "out"
    )
    assert (status, "precision='bf16' is for weights in float32, and these are in float64" in err) == (2, True), err


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
