"""Metrics that Prometheus reads from a node's metrics port."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from dataclasses import replace

import pytest

import fipray as fip
from fipray.cluster.metrics import RayMetrics
from fipray.execution import LocalRunner
from tests.studies import Fails, study


def exported(port: int, name: str) -> dict[str, float]:
    """Metrics of a study, by name, once Ray has exported them, which takes some seconds."""
    deadline, metrics = time.monotonic() + 60, {}
    while "ray_fipray_steps_total" not in metrics and time.monotonic() < deadline:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        found = re.findall(rf'^(ray_fipray_\w+)\{{.*study="{name}".*\}} (\S+)$', text, flags=re.MULTILINE)
        metrics = {metric: float(value) for metric, value in found}
        threading.Event().wait(0.5)
    return metrics


@pytest.mark.slow
def test_ray_exports_counts_steps_and_the_last_functional_distance(ray_session, tmp_path):
    import ray

    paths = [
        fip.PathSpec(f"path-{seed}", fip.objectives.GradientDiversity(), num_steps=3, seed=seed) for seed in range(3)
    ]
    bad = fip.PathSpec("bad", Fails("the mistake"), num_steps=3)
    measured = replace(study(), name="measured", paths=(*paths, bad), ensembles=(), evaluation=None)
    with pytest.raises(fip.errors.RunError):
        LocalRunner().run(measured, tmp_path, RayMetrics())
    last = LocalRunner().run(replace(measured, paths=tuple(paths)), tmp_path / "again").read_table("paths").to_pylist()
    (node,) = ray.nodes()
    metrics = exported(node["MetricsExportPort"], "measured")
    distance = metrics.pop("ray_fipray_functional_distance")
    assert any(distance == pytest.approx(row["functional_distance_held_out"]) for row in last)
    assert metrics == {
        "ray_fipray_paths_done": 3,
        "ray_fipray_paths_failed": 1,
        "ray_fipray_work_waiting": 0,
        "ray_fipray_steps_total": 9,
    }
