"""Modules as they come from elsewhere are walked correctly, or refused with a sentence that says what to do."""

from __future__ import annotations

import re

import pytest

from benchmarks.faults.kinds import SMALL
from benchmarks.faults.modules import row

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning")]


@pytest.mark.parametrize("name", SMALL)
def test_a_kind_of_module_is_walked_correctly_or_refused_with_its_sentence(name: str):
    kind = SMALL[name]
    found = row(name, kind)
    if kind.outcome == "traced":
        assert found.what == "traced", found.said
    else:
        assert found.what == "refused", found.said
        assert re.search(kind.outcome, found.said), found.said
