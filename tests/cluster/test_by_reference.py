"""Studies on data by reference, on Ray."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fipray as fip
from fipray import analysis
from fipray.records import TABLES
from fipray.study import ReferencedArray
from tests.cluster.test_runner import MAY_DIFFER, assert_equal_tables
from tests.references import written
from tests.studies import DiesOnce


def study(data: fip.Data, death: str) -> fip.Study:
    """Two paths, one of which kills its process once, and an evaluation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    settings = {"num_steps": 8, "batch_size": 32, "save_at": fip.SaveAt(4, solver_state=True)}
    return fip.Study(
        "referring",
        module,
        data,
        (
            fip.PathSpec("dies", fip.objectives.Sparsify(0.5), stepper=DiesOnce(death), **settings),
            fip.PathSpec("other", fip.objectives.Sparsify(0.3), **settings),
        ),
        evaluation=fip.Evaluation(fip.ThreatModel("linf", 0.03), (fip.attacks.PGD(3),), num_examples=50),
    )


def in_memory(data: fip.Data) -> fip.Data:
    read = {name: np.asarray(getattr(data, name)) for name in ("anchors", "held_out", "test_inputs")}
    return replace(data, **read)


@pytest.mark.slow
@pytest.mark.parametrize("augments", [False, True], ids=["fixed", "augmented"])
def test_study_by_reference_whose_actor_is_killed_has_the_rows_of_an_undisturbed_one(ray_session, tmp_path, augments):
    """In memory, where the data is a fixed set of inputs."""
    reference = fip.DataRef("tests.references:jittered", "1", written(tmp_path), augments)
    data = fip.Data.of(reference)
    assert isinstance(data.anchors, ReferencedArray)
    death = tmp_path / "death"
    fip.RayRunner(num_workers=2).run(study(data, str(death)), tmp_path / "ray")
    assert death.exists()
    alone = data if augments else in_memory(data)
    fip.LocalRunner().run(study(alone, str(death)), tmp_path / "local")
    found, expected = analysis.load(tmp_path / "ray"), analysis.load(tmp_path / "local")
    assert found.paths.set_index("name").loc["dies", "attempt"] == 2
    if augments:
        assert_equal_tables(found, expected)
        return
    for table in TABLES:
        one, other = (getattr(results, table) for results in (found, expected))
        dropped = [name for name in one if name in MAY_DIFFER or name.endswith("_id")]
        assert one.drop(columns=dropped).equals(other.drop(columns=dropped)), table
