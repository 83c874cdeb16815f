"""cluster.yaml, validated by Ray's launcher against Ray's own schema, without AWS."""

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
    """Configuration of `ray up`: filled with Ray's defaults, then validated."""
    filled = prepare_config(copy.deepcopy(cluster))
    validate_config(filled)
    return filled


def test_ray_accepts_cluster_yaml():
    prepared(CLUSTER)


@pytest.mark.parametrize("where", [(), ("auth",), ("available_node_types", "gpu_worker")])
def test_ray_refuses_an_unknown_key(where: tuple[str, ...]):
    broken = copy.deepcopy(CLUSTER)
    part = broken
    for key in where:
        part = part[key]
    part["idle_timeout_minuts"] = 10
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        prepared(broken)


def test_nodes_run_only_the_commands_of_the_file():
    filled = prepared(CLUSTER)
    assert filled["initialization_commands"] == []
    assert filled["head_setup_commands"] == CLUSTER["setup_commands"]
    assert filled["worker_setup_commands"] == CLUSTER["setup_commands"]


@pytest.mark.parametrize("node", ["head", "worker"])
def test_every_ray_start_sets_token_authentication(node: str):
    assert len(STARTS[node]) == 1
    assert "RAY_AUTH_MODE=token ray start" in STARTS[node][0]


def test_ray_starts_no_head_without_a_token_in_token_mode(tmp_path: Path):
    without_token = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = without_token | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0"]
    refused = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0
    assert "no authentication token was found" in refused.stderr


def test_token_reaches_every_node_as_a_file_and_is_not_in_cluster_yaml():
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in CLUSTER["setup_commands"]
    assert "RAY_AUTH_TOKEN" not in (ROOT / "cluster.yaml").read_text()


def test_dashboard_listens_on_loopback_only():
    assert "--dashboard-host=127.0.0.1" in STARTS["head"][0]


def test_idle_cluster_shrinks_to_its_head():
    assert WORKERS
    for worker in WORKERS.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= CLUSTER["max_workers"]
    assert CLUSTER["idle_timeout_minutes"] > 0


def test_head_runs_no_workers():
    assert CLUSTER["available_node_types"][CLUSTER["head_node_type"]]["resources"] == {"CPU": 0}


def test_nodes_get_existing_files_and_install_the_pinned_releases():
    sources = [source for source in CLUSTER["file_mounts"].values() if not source.startswith("~")]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"fipray", "experiments", "pyproject.toml", "constraints.txt", "Makefile"} <= set(sources)
    assert "make -C ~/fipray install EXTRAS=aws" in CLUSTER["setup_commands"]


@pytest.mark.parametrize("kind", ["setup_commands", "head_start_ray_commands", "worker_start_ray_commands"])
def test_bash_can_parse_every_command(kind: str):
    for command in CLUSTER[kind]:
        subprocess.run(["bash", "-n", "-c", command], check=True)
