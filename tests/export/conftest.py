from __future__ import annotations

import pytest

import fipray as fip
from fipray import analysis
from tests.export import subjects


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> analysis.Results:
    """Results of a study that its manifest says how to make again."""
    directory = tmp_path_factory.mktemp("exported") / "results"
    fip.LocalRunner().run(subjects.study().made_by("tests.export.subjects:study", ["num_steps=4"]), directory)
    return analysis.load(directory)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> analysis.Results:
    """Results of a study whose ensemble has weights and temperatures."""
    directory = tmp_path_factory.mktemp("exported") / "mixed"
    fip.LocalRunner().run(subjects.mixed(), directory)
    return analysis.load(directory)
