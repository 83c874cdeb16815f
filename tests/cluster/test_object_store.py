"""Studies and searches whose workers, driver and readers share nothing but an object store."""

from dataclasses import replace

import pytest

import fipray as fip
from fipray import analysis
from fipray.records import Store, compact
from tests.cluster.test_runner import assert_equal_tables
from tests.studies import KillsItsProcessOnce, searching, study


@pytest.mark.slow
def test_a_study_there_is_that_of_a_directory_also_when_an_actor_is_killed_and_it_is_run_again(
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
    fip.RayRunner(num_workers=1).run(made, bucket)  # there is nothing to do
    assert_equal_tables(analysis.load(bucket), local)


@pytest.mark.slow
def test_a_search_there_ends_and_is_not_begun_again(ray_session, bucket):
    made = replace(searching(), num_trials=2)
    fip.search.run(made, bucket, fip.RayRunner(num_workers=1))
    trials = analysis.load(bucket).trials
    assert list(trials["outcome_kind"]) == ["completed", "completed"]
    fip.search.run(made, bucket, fip.RayRunner(num_workers=1))
    assert list(analysis.load(bucket).trials["trial_id"]) == list(trials["trial_id"])
