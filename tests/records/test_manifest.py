"""Manifests with entries of a wrong type."""

import json

import pytest

from fipray import analysis
from fipray.errors import CorruptFileError
from fipray.records import Store, compact
from fipray.records.encoding import json_bytes
from tests.records.writer import MANIFEST, write_study

WHOLE = {**MANIFEST, "code": {"a:b": "c"}, "base_id": "base", "data_id": "data"}
STRANGE = [("code", each) for each in (3, [1], {"a": 5}, "text", None, True)]
STRANGE += [(key, each) for key in ("base_id", "data_id") for each in (3, ["a"], {}, None)]
STRANGE += [("renewals", each) for each in ("a", -1, 1.5, True, None)]
STRANGE += [("parameters", [1]), ("study", 3), ("study_id", ["a"]), ("parameters_of_module", 3), ("objectives", [1])]
PAIR = {"members": ["base", "one"], "average": "probabilities", "dim": 1}
STRANGE += [
    ("ensembles", {"both": {**PAIR, name: each}})
    for name in ("weights", "temperatures")
    for each in (3, "ab", None, [], [1.0], [1.0, 0.0], [1.0, -1.0], [1.0, "a"], [1.0, True], [1, 2, 3])
]


@pytest.mark.parametrize(("key", "value"), STRANGE)
def test_entry_of_wrong_type_is_refused_on_opening(tmp_path, key, value):
    write_study(tmp_path, 1)
    file = tmp_path / "study.json"
    manifest = json.loads(file.read_text())
    manifest.pop("seal_sha256", None)
    file.write_bytes(json_bytes({**manifest, **WHOLE}))
    Store.open(tmp_path).verify()
    file.write_bytes(json_bytes({**manifest, **WHOLE, key: value}))
    for opening in (
        lambda: Store.create_or_open(tmp_path, WHOLE),
        lambda: Store.open(tmp_path).verify(),
        lambda: compact(Store.open(tmp_path)),
        lambda: analysis.load(tmp_path),
    ):
        with pytest.raises(CorruptFileError, match=rf"study\.json is not a manifest: {key} is "):
            opening()


@pytest.mark.parametrize("more", [{}, {"weights": [0.25, 0.75]}, {"weights": [0.25, 0.75], "temperatures": [1, 0.1]}])
def test_ensembles_with_and_without_weights_and_temperatures_are_read(tmp_path, more):
    """Manifests of older versions have neither."""
    ensembles = {"both": {**PAIR, **more}}
    Store.create_or_open(tmp_path, {**WHOLE, "ensembles": ensembles})
    assert Store.open(tmp_path).manifest["ensembles"] == ensembles
