"""Labels of nodes: workers are placed on those that have them, on a real cluster of three nodes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fipray as fip
from fipray.cluster.resources import WorkerResources

KIND = "ray.io/accelerator-type"

# In a process of its own, as this one may hold another session. The head has no label.
SCRIPT = """
import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

import fipray as fip
from fipray import analysis
from fipray.cluster.doctor import examine
from tests.studies import study

KIND, directory, into = "ray.io/accelerator-type", sys.argv[1], Path(sys.argv[2])
own = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}
cluster = Cluster(head_node_args={**own, "include_dashboard": False, "temp_dir": directory}, initialize_head=True)
nodes = {kind: cluster.add_node(**own, labels={KIND: kind}).node_id for kind in ("A100", "H100")}
ray.init(address=cluster.address, log_to_driver=False, _node_ip_address="127.0.0.1")
found = {}
for kinds in ("H100", "A100,H100", "L4,A100"):
    labels = {KIND: tuple(kinds.split(","))}
    place = into / kinds
    fip.RayRunner(labels=labels).run(study(num_steps=2), place)
    used = set(analysis.load(place).paths.node_id)
    found[kinds] = sorted(kind for kind, node in nodes.items() if node in used), len(used)
try:
    fip.RayRunner(labels={KIND: "L4"}).run(study(), into / "none")
except fip.errors.UsageError as error:
    found["error"] = str(error)
found["capacity"] = fip.RayRunner(labels={KIND: ("A100", "H100")}).preflight().num_workers
findings = [one.sentence for one in examine(cluster.address) if one.about == "labels"]
print("found", json.dumps({**found, "doctor": findings}))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_workers_run_on_nodes_with_their_labels_the_preferred_ones_first(tmp_path_factory, tmp_path):
    directory = tempfile.mkdtemp(prefix="fl", dir="/tmp")  # sockets have short names
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, directory, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("found ")).partition(" ")[2])
    assert found["H100"] == [["H100"], 1]
    assert set(found["A100,H100"][0]) <= {"A100", "H100"}
    assert found["A100,H100"][1] == len(found["A100,H100"][0])
    assert found["L4,A100"] == [["A100"], 1]
    assert found["capacity"] == 2
    assert found["doctor"] == [f"of nodes, for --label: {KIND}=A100, {KIND}=H100"]
    assert f"no node has the labels {KIND}=L4; there are: {KIND}=A100, {KIND}=H100." in found["error"]


def test_selectors_are_all_choices_in_order_of_preference():
    resources = WorkerResources(labels={KIND: ("A100", "H100"), "zone": ("a",)})
    first, second = {KIND: "A100", "zone": "a"}, {KIND: "H100", "zone": "a"}
    assert resources.selectors == [first, second]
    assert resources.actor_options["label_selector"] == first
    assert resources.actor_options["fallback_strategy"] == [{"label_selector": second}]
    assert "label_selector" not in WorkerResources().actor_options
    assert resources.suits({**second, "more": "x"})
    assert not resources.suits({KIND: "A100"})
    assert not resources.suits({KIND: "L4", "zone": "a"})
    assert WorkerResources().suits({})


@pytest.mark.parametrize(
    "labels", [{KIND: ()}, {KIND: "!A100"}, {KIND: ("A100", "")}, {"": "A100"}, {KIND: "in(A100)"}, {"a b": "x"}]
)
def test_what_is_no_label_is_refused(labels):
    with pytest.raises(fip.errors.UsageError, match=r"needs one value or more of letters, digits"):
        fip.RayRunner(labels=labels)


def test_labels_on_this_machine_alone_are_refused(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # the tests' own session would be taken for the cluster
    runner = fip.RayRunner(address="local", labels={KIND: "A100"})
    with pytest.raises(fip.errors.UsageError, match=rf"the label {KIND}=A100 chooses among the nodes of a cluster"):
        runner.preflight()
