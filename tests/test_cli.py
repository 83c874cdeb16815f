"""Command line: output and exit status."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from fipray import analysis, cli
from fipray.execution import LocalRunner
from tests.studies import study


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


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("results") / "small"
    LocalRunner().run(study(), directory)
    return directory


def damaged(directory: Path, copy: Path, pattern: str, content: bytes | None = None) -> Path:
    """Copy of a results directory in which one file is truncated to half, or holds other content."""
    for file in directory.rglob("*"):
        target = copy / file.relative_to(directory)
        if file.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, target)
    file = sorted(copy.glob(pattern))[0]
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    return file


def test_run_prints_the_summary_and_the_line_for_pandas(fipray, tmp_path):
    status, out, err = fipray(
        "run", "tests.studies:study", "--into", tmp_path, "--runner", "local", "-p", "num_steps=3"
    )
    assert status == 0
    for name in ("base", "sparse", "sparse-too", "diverse-0", "diverse-1", "both"):
        assert any(line.split()[:1] == [name] for line in out.splitlines()), name
    assert "all 3 steps were walked" in out
    line = next(line for line in out.splitlines() if "analysis.load" in line)
    scope: dict[str, object] = {}
    exec(line.removeprefix("In pandas: "), scope)
    assert len(scope["results"].paths) == 4  # type: ignore[attr-defined]
    maker = {"function": "tests.studies:study", "parameters": ["num_steps=3"]}
    assert scope["results"].manifest["made_by"] == maker  # type: ignore[attr-defined]
    assert re.search(r"path sparse: all 3 steps were walked; objective \S+ -> 0\.00: better; functional distance", err)


def test_tilde_means_the_home_directory_in_every_command(fipray, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run = ["run", "tests.studies:study", "--runner", "local", "-p", "num_steps=2", "--tensorboard=~/curves"]
    assert fipray(*run, "--into=~/results")[0] == 0
    for verb in ("show", "verify", "compact"):
        assert fipray(verb, "~/results")[0] == 0
    assert fipray("export", "~/results", "--path=sparse", "--to=~/sparse.pt")[0] == 0
    assert len(analysis.load("~/results").paths) == 4
    assert {each.name for each in (tmp_path / "home").iterdir()} == {"results", "curves", "sparse.pt"}
    assert not (tmp_path / "~").exists()


def test_show_prints_the_same_summary(fipray, directory):
    ran = fipray("run", "tests.studies:study", "--into", directory, "--runner", "local")
    shown = fipray("show", directory)
    assert shown == (0, ran[1], "")


def test_show_prints_other_formats_and_sorts(fipray, directory):
    status, out, err = fipray("show", directory, "--csv", "--sort", "-sparsity")
    assert (status, err) == (0, "")
    read = pd.read_csv(io.StringIO(out))
    assert read["sparsity"].dropna().is_monotonic_decreasing
    assert len(read) == len(analysis.summary(analysis.load(directory)))
    status, out, err = fipray("show", directory, "--latex")
    assert (status, err) == (0, "")
    assert out.count("toprule") == out.count("bottomrule") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--sort", "nothing"], "the columns are: name, kind, num_members"),
        (["--csv", "--latex"], "exclude each other"),
        (["--watch", "0"], "give the seconds between two looks, above 0"),
        (["--watch", "nan"], "give the seconds between two looks, above 0"),
    ],
)
def test_wrong_options_of_show_exit_with_2(fipray, directory, options, sentence):
    status, out, err = fipray("show", directory, *options)
    assert (status, out) == (2, "")
    assert sentence in err


def test_show_watches_until_all_jobs_are_done(fipray, directory, tmp_path):
    status, out, err = fipray("show", directory, "--watch", "3600")
    assert (status, err) == (0, "")
    assert out.endswith("11 of 11 jobs done\n")
    assert out.startswith(fipray("show", directory)[1])


def test_show_watches_a_study_that_is_not_done_until_ctrl_c(fipray, directory, tmp_path, monkeypatch):
    shutil.copytree(directory, tmp_path / "copy")
    next(each for each in (tmp_path / "copy" / "commits").iterdir() if not each.name.startswith(".")).unlink()
    looks = []

    def interrupted(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupted)
    status, out, _ = fipray("show", tmp_path / "copy", "--watch", "5")
    assert status == 130
    assert looks == [5, 5, 5]
    assert out.count(" of 11 jobs done") == 1, "nothing new is not printed again"


def test_show_loads_neither_torch_nor_ray(directory):
    code = (
        "import sys; from fipray import cli; sys.argv = ['fipray', 'show', sys.argv[1]]\n"
        "try: cli.main()\n"
        "except SystemExit: print(sorted({'torch', 'ray', 'matplotlib'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code, directory], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["experiments.nowhere:study"], "there is no module 'experiments.nowhere'"),
        (
            ["tests.studies:nothing"],
            "has no function 'nothing'; it has: chained, cooperating, data, failing, interrupted, local_search, "
            "measured, module",
        ),
        (["tests.studies:study", "-p", "sparstiy=0.5"], "no parameter 'sparstiy'; it has: sparsity, epsilon"),
        (["tests.studies:study", "-p", "sparsity=1.5"], "at least 0 and below 1; 1.5 was given"),
        (["tests.studies:study", "-p", "sparsity=much"], "parameter sparsity='much'"),
        (["tests.studies:study", "-p", "epsilon=-0.1"], "epsilon is -0.1: give a finite number of at least 0"),
        (["tests.studies:with_nan"], "1 of 150 inputs in anchors contain NaN or infinity, the first at index 7"),
        (["tests.studies:with_a_fourth_class"], "the network has 3 classes, 0..2, but test_labels holds 3"),
        (["experiments.quickstart:study", "-p", "sparsity=1.5"], "below 1; 1.5 was given"),
        (["experiments.mnist:study", "-p", "data_root=nowhere"], "nowhere holds no MNIST/raw"),
        (["tests.studies:study", "--runner", "slurm"], "unknown runner 'slurm'; available: ray, local"),
        (["tests.studies:study", "--runner", "local", "--workers", "2"], "takes no --address, --workers"),
        (
            ["tests.studies:study", "--runner", "local", "--memory-per-worker", "4GB"],
            "--memory-per-worker, --resource, --label, --placement or --stall-seconds",
        ),
        (["tests.studies:study", "--runner", "ray", "--memory-per-worker", "much"], "such as 500MB or 4GB, got 'much'"),
        (
            ["tests.studies:study", "--runner", "ray", "--memory-per-worker", "9000TB"],
            "9e+06 GB of memory requested",
        ),
        (["tests.studies:study", "--runner", "ray", "--resource", "tpu"], "NAME=AMOUNT, got 'tpu'"),
        (["tests.studies:study", "--runner", "ray", "--label", "A100"], "--label must be KEY=VALUE"),
        (
            ["tests.studies:study", "--runner", "ray", "--address", "local", "--label", "kind=A100,H100"],
            "the label kind=A100,H100 chooses among the nodes of a cluster",
        ),
        (
            ["tests.studies:study", "--runner", "ray", "--resource", "tpu=1"],
            "and 0 tpu; custom resources available: none",
        ),
        (
            ["tests.studies:study", "--runner", "ray", "--placement", "x"],
            "unknown placement 'x'; available: pack, spread",
        ),
        (["tests.studies:study", "--runner", "ray", "--workers", "0"], "num_workers must be at least 1 or None, got 0"),
        (
            ["tests.studies:study", "--runner", "ray", "--gpus-per-worker", "64"],
            "a worker computes on one GPU, so of gpus_per_worker=64 all others would be reserved and idle",
        ),
        (
            ["tests.studies:study", "--runner", "ray", "--gpus-per-worker", "1", "--workers", "64"],
            "64 GPUs requested (workers: 64, GPUs per worker: 1)",
        ),
    ],
)
@pytest.mark.usefixtures("without_ray")
def test_wrong_use_of_run_exits_with_2_and_a_message_and_writes_nothing(fipray, tmp_path, arguments, sentence):
    into = tmp_path / "results"
    runner = [] if "--runner" in arguments else ["--runner", "local"]
    status, out, err = fipray("run", *arguments, "--into", into, *runner)
    assert (status, out) == (2, "")
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err
    assert not into.exists()


def test_tensorboard_shows_paths_of_this_and_earlier_runs(fipray, tmp_path):
    command = ["run", "tests.studies:study", "--into", tmp_path / "results", "--runner", "local", "-p", "num_steps=2"]
    assert fipray(*command)[0] == 0
    one = next((tmp_path / "results" / "commits").iterdir())
    one.unlink()
    assert fipray(*command, "--tensorboard", tmp_path / "curves")[0] == 0
    shown = sorted(each.name.rpartition("-")[0] for each in (tmp_path / "curves" / "small").glob("*-*"))
    paths = ["diverse-0", "diverse-1", "sparse", "sparse-too"]
    assert shown == sorted([*paths, *paths, "base", "both"]), "each path, and the robustness of each network"


def test_doctor_exits_with_0_if_all_is_well_and_with_1_for_a_problem(fipray, ray_session, tmp_path):
    (tmp_path / "file").write_text("no directory")
    for into, expected in ((tmp_path, 0), (tmp_path / "file" / "results", 1)):
        status, out, err = fipray("doctor", "--address", ray_session["address"], "--into", into)
        assert (status, err) == (expected, ""), out
        assert [line.split()[0] for line in out.splitlines()].count("problem") == expected
        assert "fipray" in out.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tests.studies:study"], "study returned a Study; a search function must return a fipray.search.Search"),
        (["tests.studies:searching", "-p", "domain=wide", "--searcher", "grid"], "a grid needs a Choice"),
        (["tests.studies:searching", "--scheduler", "pbt"], "determined by one spec and can be traced again"),
        (["tests.studies:searching", "--workers", "0"], "num_workers must be at least 1 or None, got 0"),
    ],
)
def test_wrong_use_of_search_exits_with_2_and_a_message_and_writes_nothing(fipray, tmp_path, arguments, sentence):
    into = tmp_path / "results"
    status, out, err = fipray("search", *arguments, "--into", into)
    assert (status, out) == (2, "")
    assert sentence in " ".join(err.split())
    assert not into.exists()


def test_run_refuses_a_directory_of_another_study(fipray, directory):
    status, _, err = fipray(
        "run", "tests.studies:study", "--into", directory, "--runner", "local", "-p", "sparsity=0.7"
    )
    assert status == 2
    assert "sparsity is 0.5 there and 0.7 here" in err


@pytest.mark.parametrize("pattern", ["paths/*.parquet", "points/*.parquet", "weights/*/*/*.safetensors", "base.*s"])
def test_truncated_file_is_named_with_a_remedy(fipray, directory, tmp_path, pattern):
    file = damaged(directory, tmp_path / "copy", pattern)
    before = sorted(tmp_path.rglob("*"))
    status, _, err = fipray("run", "tests.studies:study", "--into", tmp_path / "copy", "--runner", "local")
    assert status == 2
    assert str(file) in err
    assert "run the same command again" in err or "into a new directory" in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_remedy_for_a_truncated_file_repairs_the_directory(fipray, directory, tmp_path):
    file = damaged(directory, tmp_path / "copy", "points/*.parquet")
    _, _, err = fipray("show", tmp_path / "copy")
    (tmp_path / "copy" / "commits" / f"{file.stem}.json").unlink()
    assert f"commits/{file.stem}.json" in err
    status, out, _ = fipray("run", "tests.studies:study", "--into", tmp_path / "copy", "--runner", "local")
    assert (status, out) == (0, fipray("show", directory)[1].replace(str(directory), str(tmp_path / "copy")))


def test_show_without_a_results_directory_exits_with_2(fipray, tmp_path):
    status, _, err = fipray("show", tmp_path / "nothing")
    assert status == 2
    assert "not a results directory" in err


def test_failed_jobs_exit_with_1_and_a_line_for_each(fipray, tmp_path):
    status, _, err = fipray("run", "tests.studies:failing", "--into", tmp_path, "--runner", "local")
    assert status == 1
    assert "5 of 11 jobs failed" in err
    assert "path sparse: ZeroDivisionError: the mistake, raised at " in err
    assert "Traceback" not in err


def test_ctrl_c_exits_with_130_and_keeps_finished_jobs(fipray, tmp_path):
    status, _, err = fipray("run", "tests.studies:interrupted", "--into", tmp_path, "--runner", "local")
    assert status == 130
    assert err.endswith("fipray: interrupted; finished jobs are saved. Run the same command again to resume\n")
    assert len(list((tmp_path / "commits").iterdir())) == 2


def test_version_and_help_with_panels_and_an_example_for_each_command(fipray):
    from fipray import __version__

    assert fipray("--version") == (0, f"fipray {__version__}\n", "")
    _, shown, _ = fipray("--help")
    for command in ("run", "search", "show", "verify", "compact", "export", "doctor"):
        assert re.search(rf"^│ {command} ", shown, flags=re.MULTILINE)
        assert f"Example: fipray {command} " in " ".join(fipray(command, "--help")[1].split())
    assert "--install-completion" in shown
    assert all(f"─ {panel} ─" in shown for panel in ("Run", "Results"))


def test_local_search_of_the_command_line_continues_with_more_trials(fipray, tmp_path):
    into = tmp_path / "results"
    command = ["search", "tests.studies:searching", "-p", "num_steps=2", "-p", "domain=wide", "--runner", "local"]
    for trials in (1, 2):
        status, out, err = fipray(
            *command, "--into", into, "--trials", trials, f"--tensorboard={tmp_path / 'curves'}", "--device=cpu"
        )
        assert status == 0, err
        assert f"front of {trials} trial" in out
    assert "1 of 2 jobs are already done; 1 remain" in err
    assert len(list((tmp_path / "curves" / "searched").iterdir())) == 2 * 2 + 1  # paths, their networks, the summary


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_device_that_is_not_there_is_refused_with_those_that_are(fipray, tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = ["run", "tests.studies:study", "--into", tmp_path / "results", "--device", device]
    status, _, err = fipray(*command, "--runner", "local")
    assert status == 2
    assert ("there is no device 'cuda' here; there are: " if device == "cuda" else "available: auto, cuda") in err
    assert not (tmp_path / "results").exists()


def test_missing_option_exits_with_2(fipray):
    status, _, err = fipray("run", "tests.studies:study")
    assert status == 2
    assert "--into" in err


OWN_STUDY = """
from dataclasses import dataclass
import fipray as fip
from tests import studies


@dataclass(frozen=True)
class Shrinks:
    def value(self, problem, weights, batch):
        return weights.square().sum()


def study():
    path = fip.PathSpec("own", Shrinks(), num_steps=2, batch_size=50)
    return fip.Study("own", studies.module(), studies.data(), (path,))
"""


def test_run_of_a_study_file_notices_changed_code(fipray, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file, command = tmp_path / "owns_study.py", ["--into", tmp_path / "results", "--runner", "local"]
    file.write_text(OWN_STUDY)
    assert fipray("run", f"{file}:study", *command)[0] == 0
    file.write_text(OWN_STUDY.replace("class Shrinks", "class  Shrinks  "))
    assert fipray("run", f"{file}:study", *command)[0] == 0
    file.write_text(OWN_STUDY.replace("square()", "abs()"))
    status, _, err = fipray("run", f"{file}:study", *command)
    assert status == 2
    assert "Shrinks, Shrinks.value in owns_study.py changed since" in err or "Shrinks.value in owns_study.py" in err
    status, out, _ = fipray("run", f"{file}:study", *command, "--changed", "redo")
    assert status == 0
    assert sum(line.split()[:1] == ["own"] for line in out.splitlines()) == 1
    assert fipray("run", f"{file}:study", *command, "--changed", "perhaps")[0] == 2
    del sys.modules["owns_study"]


@pytest.mark.parametrize("name", ["", " "])
@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "tests.studies:study", "--runner=local", "--into="),
        ("search", "tests.studies:study", "--into="),
        ("run", "tests.studies:study", "--runner=local", "--into=results", "--tensorboard="),
        ("doctor", "--into="),
        ("show", ""),
        ("verify", ""),
        ("compact", ""),
        ("export", "--path=sparse", "--to=a.pt", ""),
    ],
)
def test_empty_directory_name_is_refused_at_once(fipray, tmp_path, monkeypatch, arguments, name):
    monkeypatch.chdir(tmp_path)
    status, out, err = fipray(*arguments[:-1], arguments[-1] + name)
    assert status == 2
    assert out == ""
    assert "does not name a file or directory" in err
    assert not list(tmp_path.iterdir())


def test_empty_mlflow_uri_is_refused(fipray, tmp_path):
    status, _, err = fipray("run", "tests.studies:study", "--runner=local", f"--into={tmp_path}", "--mlflow=")
    assert status == 2
    assert "MLflow cannot use" in err


def test_report_writes_one_page_on_several_directories(fipray, directory, tmp_path):
    LocalRunner().run(study(num_steps=2), tmp_path / "other")
    status, out, _ = fipray("report", directory, tmp_path / "other", "--to", tmp_path / "report.html")
    assert status == 0
    assert str(tmp_path / "report.html") in out
    assert "Side by side" in (tmp_path / "report.html").read_text()


def test_report_of_damaged_results_ends_with_status_2_and_writes_nothing(fipray, directory, tmp_path):
    file = damaged(directory, tmp_path / "copy", "points/*.parquet")
    status, _, err = fipray("report", tmp_path / "copy", "--to", tmp_path / "report.html")
    assert status == 2
    assert file.name in err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("to", "said"), [("report.txt", "suffix .txt"), ("", "")])
def test_report_refuses_a_file_that_is_no_page(fipray, directory, tmp_path, to, said):
    status, _, err = fipray("report", directory, "--to", tmp_path / to if to else "")
    assert status == 2
    assert said in err
