"""Files in deploy/, validated by the tools they are for, as far as that is possible without a cluster."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from ray import __version__ as ray_version
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start
from ray.scripts.symmetric_run import symmetric_run

import fipray

DEPLOY = Path(__file__).parents[2] / "deploy"
ON_PREMISE: dict[str, Any] = yaml.safe_load((DEPLOY / "on-premise.yaml").read_text())
RAY_JOB: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())
SLURM = (DEPLOY / "slurm.sh").read_text()

# Keys of the resource definitions ray.io/v1 of KubeRay 1.5.1 and of Kubernetes, as far as they are used here.
RAY_JOB_KEYS = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
CLUSTER_KEYS = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP_KEYS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
POD_KEYS = {"containers", "tolerations", "volumes"}
CONTAINER_KEYS = {"name", "image", "ports", "env", "envFrom", "resources", "volumeMounts"}

CLUSTER = RAY_JOB["spec"]["rayClusterSpec"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]


def test_ray_accepts_on_premise_yaml():
    filled = prepare_config({**ON_PREMISE})
    validate_config(filled)
    workers = [node for name, node in filled["available_node_types"].items() if name != filled["head_node_type"]]
    asked = sum(node.get("min_workers", 0) for node in filled["available_node_types"].values())
    assert asked == len(ON_PREMISE["provider"]["worker_ips"]) == filled["max_workers"]
    assert len(workers) <= 1


@pytest.mark.parametrize("node", ["head", "worker"])
def test_on_premise_nodes_start_in_token_mode_with_the_token_file(node):
    *_, command = ON_PREMISE[f"{node}_start_ray_commands"]
    assert "RAY_AUTH_MODE=token ray start" in command
    assert ON_PREMISE["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "RAY_AUTH_TOKEN" not in (DEPLOY / "on-premise.yaml").read_text()
    for each in [*ON_PREMISE["setup_commands"], *ON_PREMISE[f"{node}_start_ray_commands"]]:
        subprocess.run(["bash", "-n", "-c", each], check=True)


def test_rayjob_has_known_keys_only():
    assert (RAY_JOB["apiVersion"], RAY_JOB["kind"]) == ("ray.io/v1", "RayJob")
    assert set(RAY_JOB) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(RAY_JOB["spec"]) <= RAY_JOB_KEYS
    assert set(CLUSTER) <= CLUSTER_KEYS
    for group in GROUPS:
        assert set(group) <= GROUP_KEYS
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes strings only"
        assert set(group["template"]["spec"]) <= POD_KEYS
        for container in group["template"]["spec"]["containers"]:
            assert set(container) <= CONTAINER_KEYS
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", container["name"])
            assert container["resources"]["requests"] == container["resources"]["limits"]


def test_rayjob_is_in_token_mode_with_gpus_and_the_releases_of_this_checkout():
    assert CLUSTER["authOptions"] == {"mode": "token"}
    assert CLUSTER["rayVersion"] == ray_version
    for group in GROUPS:
        assert group["template"]["spec"]["containers"][0]["image"] == f"fipray:{fipray.__version__}"
    (worker,) = CLUSTER["workerGroupSpecs"]
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    assert shlex.split(RAY_JOB["spec"]["entrypoint"])[:2] == ["fipray", "run"]


def test_slurm_script_requires_two_arguments():
    refused = subprocess.run(["bash", str(DEPLOY / "slurm.sh")], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "the study, as module:function" in refused.stderr


def test_slurm_script_uses_options_that_ray_knows():
    command = SLURM[SLURM.index("ray symmetric-run") :]
    given = set(re.findall(r"(--[a-z-]+)", command[: command.index(" -- ")]))
    known = CliRunner().invoke(symmetric_run, ["--help"]).output
    of_start = {option for parameter in start.params for option in parameter.opts}
    assert {"--address", "--min-nodes"} <= given
    assert {option for option in given if option not in known} <= of_start


def test_slurm_script_creates_a_token_that_is_on_no_command_line():
    assert "RAY_AUTH_MODE=token" in SLURM
    assert "export RAY_AUTH_MODE RAY_AUTH_TOKEN" in SLURM
    assert not re.search(r"\$\{?RAY_AUTH_TOKEN", SLURM)


def test_slurm_script_runs_the_study_on_all_nodes_of_the_allocation(tmp_path):
    """With stand-ins for the commands of Slurm and Ray."""
    for name, body in {
        "scontrol": "printf 'node1\\nnode2\\n'",
        "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "ray": 'printf "%s\\n" "$RAY_AUTH_MODE" "${#RAY_AUTH_TOKEN}" "$@"',
    }.items():
        (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        stand_in = tmp_path / ".venv" / "bin" / name
        stand_in.write_text(f"#!/usr/bin/env bash\n{body}\n")
        stand_in.chmod(0o755)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f'PATH="{tmp_path}/.venv/bin:$PATH"\n')
    allocation = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "123456",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "4",
    }
    arguments = ["mystudies:study", "s3://bucket/x", "-p", "members=16"]
    ran = subprocess.run(
        ["bash", str(DEPLOY / "slurm.sh"), *arguments],
        env={**os.environ, **allocation},
        capture_output=True,
        text=True,
        check=True,
    )
    mode, length, *said = ran.stdout.splitlines()
    assert (mode, length) == ("token", "64")
    asked = "symmetric-run --address node1:23456 --min-nodes 2 --num-cpus=8 --num-gpus=4 --disable-usage-stats -- "
    asked += "fipray run mystudies:study --address auto --into s3://bucket/x -p members=16"
    assert said == asked.split()
