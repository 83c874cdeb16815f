"""Studies and searches in an object store, the only thing that driver, workers and readers share."""

from dataclasses import replace

import pytest

import fipray as fip
from fipray import analysis
from fipray.records import Store, compact
from tests.cluster.test_runner import assert_equal_tables
from tests.studies import KillsItsProcessOnce, searching, study


@pytest.mark.slow
def test_study_in_an_object_store_equals_that_in_a_directory_after_a_killed_actor_and_a_second_run(
    ray_session, bucket, tmp_path
):
    made = study(num_steps=4, other=KillsItsProcessOnce(str(tmp_path / "death")))
    fip.RayRunner(num_workers=1).run(made, bucket)
    fip.LocalRunner().run(made, tmp_path / "local")
    local = analysis.load(tmp_path / "local")
    assert_equal_tables(analysis.load(bucket), local)
    store = Store.open(bucket)
    store.files.remove(f"commits/{made.path_ids['sparse-too']}.json")
    fip.LocalRunner().run(made, bucket)
    assert_equal_tables(analysis.load(bucket), local)
    compact(store)
    fip.RayRunner(num_workers=1).run(made, bucket)  # nothing is left to do
    assert_equal_tables(analysis.load(bucket), local)


@pytest.mark.slow
def test_search_in_an_object_store_finishes_and_does_not_start_again(ray_session, bucket):
    made = replace(searching(), num_trials=2)
    fip.search.run(made, bucket, fip.RayRunner(num_workers=1))
    trials = analysis.load(bucket).trials
    assert list(trials["outcome_kind"]) == ["completed", "completed"]
    fip.search.run(made, bucket, fip.RayRunner(num_workers=1))
    assert list(analysis.load(bucket).trials["trial_id"]) == list(trials["trial_id"])
