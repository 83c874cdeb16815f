"""cluster.yaml is read by Ray's launcher, against Ray's own schema; nothing of it needs AWS."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
WORKERS = {name: node for name, node in CLUSTER["available_node_types"].items() if name != CLUSTER["head_node_type"]}
STARTS = {
    "head": [command for command in CLUSTER["head_start_ray_commands"] if "ray start" in command],
    "worker": [command for command in CLUSTER["worker_start_ray_commands"] if "ray start" in command],
}


def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of the file: filled with Ray's defaults, then validated."""
    filled = prepare_config(copy.deepcopy(cluster))
    validate_config(filled)
    return filled


def test_ray_accepts_the_file():
    prepared(CLUSTER)


@pytest.mark.parametrize("where", [(), ("auth",), ("available_node_types", "gpu_worker")])
def test_ray_refuses_a_key_it_does_not_know(where: tuple[str, ...]):
    broken = copy.deepcopy(CLUSTER)
    part = broken
    for key in where:
        part = part[key]
    part["idle_timeout_minuts"] = 10
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        prepared(broken)


def test_no_command_runs_on_a_node_that_the_file_does_not_name():
    filled = prepared(CLUSTER)
    assert filled["initialization_commands"] == []
    assert filled["head_setup_commands"] == CLUSTER["setup_commands"]
    assert filled["worker_setup_commands"] == CLUSTER["setup_commands"]


@pytest.mark.parametrize("node", ["head", "worker"])
def test_every_start_of_ray_names_token_authentication(node: str):
    assert len(STARTS[node]) == 1
    assert "RAY_AUTH_MODE=token ray start" in STARTS[node][0]


def test_ray_starts_no_head_in_token_mode_without_a_token(tmp_path: Path):
    without_token = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = without_token | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
    refused = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    assert "no authentication token was found" in refused.stderr


def test_the_token_reaches_every_node_as_a_file_and_is_not_in_this_one():
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in CLUSTER["setup_commands"]
    assert "RAY_AUTH_TOKEN" not in (ROOT / "cluster.yaml").read_text()


def test_the_dashboard_is_reached_through_ssh_alone():
    assert "--dashboard-host=127.0.0.1" in STARTS["head"][0]


def test_an_idle_cluster_costs_its_head_alone():
    assert WORKERS
    for worker in WORKERS.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= CLUSTER["max_workers"]
    assert CLUSTER["idle_timeout_minutes"] > 0


def test_no_work_is_placed_on_the_head():
    assert CLUSTER["available_node_types"][CLUSTER["head_node_type"]]["resources"] == {"CPU": 0}


def test_nodes_get_files_that_exist_and_install_the_constrained_releases():
    sources = [source for source in CLUSTER["file_mounts"].values() if not source.startswith("~")]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"fipray", "experiments", "pyproject.toml", "constraints.txt", "Makefile"} <= set(sources)
    assert "make -C ~/fipray install EXTRAS=aws" in CLUSTER["setup_commands"]


@pytest.mark.parametrize("kind", ["setup_commands", "head_start_ray_commands", "worker_start_ray_commands"])
def test_bash_can_read_every_command(kind: str):
    for command in CLUSTER[kind]:
        subprocess.run(["bash", "-n", "-c", command], check=True)
