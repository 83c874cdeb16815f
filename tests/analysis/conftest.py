"""Results of a made-up study."""

import pytest

from fipray import analysis
from fipray.analysis import Results
from tests.analysis.made_up import write_made_up_study


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    directory = tmp_path_factory.mktemp("results") / "made-up"
    write_made_up_study(directory)
    return analysis.load(directory)
