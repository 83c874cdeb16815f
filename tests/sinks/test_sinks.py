"""TensorBoard and MLflow sinks: they show the rows of the tables once, and their failures end no run."""

from __future__ import annotations

import io
import struct
import traceback
from pathlib import Path

import pytest
from rich.console import Console

import fipray as fip
from fipray import analysis
from fipray.execution import LocalRunner
from fipray.execution.jobs import Tables
from fipray.execution.listeners import Listeners
from fipray.sinks import MLflowSink, TensorBoardSink, WandbSink
from fipray.sinks.scalars import MEASURES
from fipray.terminal import TerminalListener
from tests.studies import study


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> analysis.Results:
    directory = tmp_path_factory.mktemp("results") / "small"
    LocalRunner().run(study(num_steps=3), directory)
    return analysis.load(directory)


def tables_of(results: analysis.Results) -> Tables:
    """Rows as the store returns them, with None for missing values."""
    return {
        name: getattr(results, name).astype(object).where(getattr(results, name).notna(), None).to_dict("records")
        for name in ("paths", "points", "robustness")
    }


def scalars_in(directory: Path) -> dict[tuple[str, int], float]:
    """Scalars in a TensorBoard directory by tag and step."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    (file,) = directory.glob("events.out.tfevents.*")
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard_shows_every_measure_of_every_point(results, tmp_path):
    sink = TensorBoardSink(tmp_path)
    sink.write(tables_of(results))
    assert {"functional_distance", "sparsity", "objective_value", "clean_accuracy"} < set(MEASURES)
    for path in results.paths.itertuples():
        shown = scalars_in(tmp_path / "small" / f"{path.name}-{path.path_id}")
        points = results.points[results.points["name"] == path.name].set_index("step")
        for name in MEASURES:
            for step, value in points[name].dropna().items():
                assert shown.pop((name, step)) == pytest.approx(value, rel=1e-6)
        assert shown == {}


def test_tensorboard_shows_robustness_texts_and_the_summary(results, tmp_path):
    sink = TensorBoardSink(tmp_path, str(results.location))
    sink.write(tables_of(results))
    sink.finish()
    worst = results.robustness.query("name == 'both' and attack == 'worst'").iloc[0]
    shown = scalars_in(tmp_path / "small" / f"both-{worst['robustness_id']}")
    assert shown["robust_accuracy/worst", 0] == pytest.approx(worst["robust_accuracy"], rel=1e-6)
    assert ("clean_accuracy", 0) in shown
    path = results.paths.iloc[0]
    (file,) = (tmp_path / "small" / f"{path['name']}-{path['path_id']}").glob("events*")
    assert f"{results.location}/{path['weights_file']}".encode() in file.read_bytes()
    (summary,) = (tmp_path / "small" / "summary").glob("events*")
    assert b"| sparse | path |" in summary.read_bytes()


def test_tensorboard_skips_paths_it_has(results, tmp_path):
    TensorBoardSink(tmp_path).write(tables_of(results))
    before = sorted(tmp_path.rglob("*"))
    TensorBoardSink(tmp_path).write(tables_of(results))
    assert sorted(tmp_path.rglob("*")) == before


def test_mlflow_has_one_run_a_path_with_its_spec_and_points(results, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for _ in range(2):
        sink = MLflowSink(tmp_path.as_uri(), str(results.location))
        sink.write(tables_of(results))
        sink.finish()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tmp_path.as_uri())
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    others, of_paths = ["base", "both", "summary"], ["diverse-0", "diverse-1", "sparse", "sparse-too"]
    assert sorted(run.info.run_name for run in runs) == sorted(others + of_paths)
    robust = results.robustness.query("attack == 'worst'").set_index("name")["robust_accuracy"]
    for run in runs:
        name = run.info.run_name
        if name == "summary":
            (artifact,) = client.list_artifacts(run.info.run_id)
            assert artifact.path == "summary.csv"
        else:
            assert run.data.metrics["robust_accuracy/worst"] == robust[name]
    for run in (run for run in runs if run.info.run_name in of_paths):
        path = results.paths.set_index("name").loc[run.info.run_name]
        points = results.points[results.points["name"] == run.info.run_name]
        assert run.info.status == "FINISHED"
        assert run.data.params["objective.kind"] == path["objective"]
        assert run.data.params["num_steps"] == "3"
        assert run.data.tags["fipray.weights"] == f"{results.location}/{path['weights_file']}"
        history = client.get_metric_history(run.info.run_id, "functional_distance")
        assert [(metric.step, metric.value) for metric in history] == [
            (row.step, row.functional_distance) for row in points.itertuples()
        ]


@pytest.mark.slow
def test_wandb_writes_a_run_a_path_and_a_network_offline(results, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    whole = tables_of(results)
    path = whole["paths"][0]
    robust = [row for row in whole["robustness"] if row["name"] == "both"]
    for _ in range(2):
        sink = WandbSink("mine", str(results.location))
        sink.write({"paths": [path], "points": whole["points"], "robustness": robust})
    sink.finish()
    wandb.teardown()  # its process writes files some moments after a run is finished
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2 + 1, "what is there is skipped, and the summary comes at the end"
    # Records of protobuf, whose texts stand as they are.
    (of_path,) = (file.read_bytes() for file in files if path["path_id"] in file.name)
    (of_network,) = (file.read_bytes() for file in files if robust[0]["robustness_id"] in file.name)
    points = results.points[results.points["path_id"] == path["path_id"]]
    for text in (f"{results.location}/{path['weights_file']}", *(repr(each) for each in points["functional_distance"])):
        assert text.encode() in of_path
    worst = next(row["robust_accuracy"] for row in robust if row["attack"] == "worst")
    assert b"robust_accuracy/worst" in of_network
    assert repr(worst).encode() in of_network
    assert len(list((tmp_path / "wandb").glob("offline-run-*/files/media/table/*.json"))) == 1


def test_wandb_without_a_key_is_refused_unless_offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(fip.errors.UsageError, match="WANDB_MODE=offline"):
        WandbSink("mine")
    with pytest.raises(fip.errors.UsageError, match="the name of a project"):
        WandbSink(" ")


def test_uri_that_mlflow_cannot_use_is_refused_with_the_reason(monkeypatch, tmp_path):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(fip.errors.UsageError, match=r"sqlite:///mlflow\.db"):
        MLflowSink(tmp_path.as_uri())


def test_failed_sink_is_dropped_and_the_run_goes_on(tmp_path):
    class FullDisk:
        name = "the sink"
        calls = 0

        def write(self, tables: Tables) -> None:
            self.calls += 1
            raise OSError("no space left")

    sink, output = FullDisk(), io.StringIO()
    terminal = TerminalListener(Console(file=output, width=200))
    LocalRunner().run(study(num_steps=1), tmp_path, Listeners([terminal], [sink]))
    assert sink.calls == 1
    assert output.getvalue().count("the sink receives no more rows, because it failed: OSError: no space left") == 1


def test_names_in_rows_cannot_leave_the_directory(results, tmp_path):
    tables = tables_of(results)
    for column, value in (("study", "../../out"), ("name", "../out"), ("path_id", "x/../../../out")):
        changed = {**tables, "paths": [{**tables["paths"][0], column: value}]}
        with pytest.raises(fip.errors.UsageError, match="is not a valid name"):
            TensorBoardSink(tmp_path / "curves").write(changed)
    assert [file.name for file in tmp_path.rglob("*")] == ["curves"]


def test_password_in_an_mlflow_uri_is_not_shown():
    pytest.importorskip("mlflow")
    password = "SEC" + "RET"  # in two parts, because tracebacks quote source lines
    with pytest.raises(fip.errors.UsageError, match="MLflow cannot use") as error:
        MLflowSink(f"nothing://user:{password}@host/db")
    assert password not in "".join(traceback.format_exception(error.value))
