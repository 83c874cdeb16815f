"""Invalid names of directories and files, wherever one is given."""

from pathlib import Path

import pytest

import fipray as fip
from fipray import analysis
from fipray.errors import UsageError
from fipray.export import export
from fipray.records import Store
from fipray.records.files import write_whole
from fipray.sinks import TensorBoardSink
from tests import studies
from tests.records.writer import MANIFEST

NOWHERE = ["", " ", "/tmp/a\0b", Path("a\0b"), "/tmp/\ud800", "s3://bucket/a\0b"]
TAKING = {
    "create_or_open": lambda place: Store.create_or_open(place, MANIFEST),
    "open": Store.open,
    "load": analysis.load,
    "export": lambda place: export(place, "sparse", None, Path("a.pt")),
    "TensorBoardSink": TensorBoardSink,
    "LocalRunner.run": lambda place: fip.LocalRunner().run(studies.study(), place),
}


@pytest.mark.parametrize("taking", TAKING.values(), ids=TAKING)
@pytest.mark.parametrize("place", NOWHERE, ids=map(repr, NOWHERE))
def test_invalid_directory_is_refused(taking, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"does not name a file or directory|cannot name a file or directory"):
        taking(place)
    assert not list(tmp_path.iterdir())


def test_invalid_file_is_refused():
    with pytest.raises(UsageError, match="it contains a null character"):
        write_whole(Path("a\0b"), b"")
    with pytest.raises(UsageError, match="it contains a null character"):
        export("results", "sparse", None, Path("a\0b.pt"))
