"""What an attempt prints and warns is kept beside the tables, whether it ends well or not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import fipray as fip
from fipray.execution import LocalRunner, log as log_module
from fipray.records import Store
from fipray.study import Study
from tests.studies import Fails, Talks, study


def paths_alone(*paths: fip.PathSpec) -> Study:
    return replace(study(), paths=paths, ensembles=(), evaluation=None)


@pytest.mark.filterwarnings("ignore:warned")  # pytest keeps warnings to itself: those of actors are tested
def test_each_path_has_what_it_printed_warned_and_reported_and_only_that(tmp_path, capsys):
    talking = paths_alone(*(fip.PathSpec(word, Talks(word), num_steps=2) for word in ("one", "two")))
    LocalRunner().run(talking, tmp_path)
    store, ids = Store.open(tmp_path), talking.path_ids
    for word, other in (("one", "two"), ("two", "one")):
        text = store.read_log(ids[word], 1)
        for expected in (f"path {word}, attempt 1", "printed", "complained", "step 2: objective"):
            assert expected in text
        assert other not in text
    out, err = capsys.readouterr()
    assert "printed one" in out
    assert "complained two" in err


def test_an_error_names_the_log_which_holds_its_traceback(tmp_path):
    failing = paths_alone(fip.PathSpec("bad", Fails("the mistake"), num_steps=2))
    with pytest.raises(fip.errors.RunError) as failed:
        LocalRunner().run(failing, tmp_path)
    file = f"{tmp_path}/logs/{failing.path_ids['bad']}/1.log"
    said = str(failed.value).splitlines()[-1]
    assert said.startswith("path bad: ZeroDivisionError: the mistake, raised at ")
    assert re.search(rf"tests/studies\.py:\d+ \(its log: {re.escape(file)}\)$", said)
    text = Store.open(tmp_path).read_log(failing.path_ids["bad"], 1)
    assert "Traceback" in text
    assert "ZeroDivisionError: the mistake" in text


def test_of_a_log_that_is_too_long_the_end_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "MOST_CHARACTERS", 500)
    talking = paths_alone(fip.PathSpec("many", fip.objectives.GradientDiversity(), num_steps=20))
    LocalRunner().run(talking, tmp_path)
    text = Store.open(tmp_path).read_log(talking.path_ids["many"], 1)
    assert text.startswith("[the beginning is cut off")
    assert "step 20" in text
    assert len(text) < 600


def test_an_attempt_that_was_killed_has_no_log(tmp_path):
    one = paths_alone(fip.PathSpec("one", fip.objectives.GradientDiversity(), num_steps=1))
    store = LocalRunner().run(one, tmp_path)
    with pytest.raises(fip.errors.CorruptFileError, match=r"2\.log is missing"):
        store.read_log(one.path_ids["one"], 2)
