"""Logs of attempts: what they hold, after success and after failure."""

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


@pytest.mark.filterwarnings("ignore:warned")  # pytest captures warnings; tests of actors cover them
def test_log_holds_output_warnings_and_messages_of_its_own_path_only(tmp_path, capsys):
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


def test_error_names_its_log_with_the_traceback(tmp_path):
    failing = paths_alone(fip.PathSpec("bad", Fails("the mistake"), num_steps=2))
    with pytest.raises(fip.errors.RunError) as failed:
        LocalRunner().run(failing, tmp_path)
    file = f"{tmp_path}/logs/{failing.path_ids['bad']}/1.log"
    message = str(failed.value).splitlines()[-1]
    assert message.startswith("path bad: ZeroDivisionError: the mistake, raised at ")
    assert re.search(rf"tests/studies\.py:\d+ \(its log: {re.escape(file)}\)$", message)
    text = Store.open(tmp_path).read_log(failing.path_ids["bad"], 1)
    assert "Traceback" in text
    assert "ZeroDivisionError: the mistake" in text


def test_long_log_keeps_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "MOST_CHARACTERS", 500)
    talking = paths_alone(fip.PathSpec("many", fip.objectives.GradientDiversity(), num_steps=20))
    LocalRunner().run(talking, tmp_path)
    text = Store.open(tmp_path).read_log(talking.path_ids["many"], 1)
    assert text.startswith("[the beginning is cut off")
    assert text.splitlines()[-1].split("] ")[1].startswith("over after")
    assert "step 2: " not in text
    assert len(text) < 600


def test_missing_log_is_refused(tmp_path):
    one = paths_alone(fip.PathSpec("one", fip.objectives.GradientDiversity(), num_steps=1))
    store = LocalRunner().run(one, tmp_path)
    with pytest.raises(fip.errors.CorruptFileError, match=r"2\.log is missing"):
        store.read_log(one.path_ids["one"], 2)
