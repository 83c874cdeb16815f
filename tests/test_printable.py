"""Anybody's text, as it may be shown."""

import pickle

import pytest

from fipray.errors import RecordsError, UsageError
from fipray.printable import printable, printable_lines, without_credentials

ADDRESSES = {
    "s3://KEY:SECRET@bucket/results": "s3://bucket/results",
    "s3://KEY:SE/CR+ET@bucket/results?region=eu&scheme=http": "s3://bucket/results?region=eu&scheme=http",
    "s3:/KEY:SECRET@bucket/results": "s3:/bucket/results",
    "s3://bucket/x?access_key=KEY&secret_key=SECRET&region=eu": "s3://bucket/x?region=eu",
    "s3://bucket/x?region=eu&session_token=SECRET": "s3://bucket/x?region=eu",
    "postgresql://KEY:SECRET@host/db": "postgresql://host/db",
    "s3://bucket/me@home/results": "s3://bucket/me@home/results",
    "sqlite:///mlflow.db": "sqlite:///mlflow.db",
    "results/a?b&c": "results/a?b&c",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_shown_without_its_credentials_wherever_it_stands(address):
    assert without_credentials(address) == ADDRESSES[address]
    assert without_credentials(f"is {address!r} right?") == f"is {ADDRESSES[address]!r} right?"


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\r", "\x9b", "\u202e", "\u2066", "\u2028", "\ud800", "\ufeff"])
def test_what_a_terminal_obeys_is_shown_as_its_escape(character):
    for show in (printable, printable_lines):
        shown = show(f"a{character}b")
        assert character not in shown
        assert shown.startswith("a\\")
        assert shown.encode().endswith(b"b")
        assert show(shown) == shown


def test_line_breaks_stay_in_a_text_of_several_lines_alone():
    assert printable_lines("a\n\tb") == "a\n\tb"
    assert printable("a\n\tb") == r"a\n\tb"
    assert printable("é 漢 ∂θ — €") == "é 漢 ∂θ — €"


def test_every_error_can_be_shown():
    for error in (UsageError, RecordsError):
        made = error("no \x1b[31mresults in s3://KEY:SECRET@bucket/x\nhere")
        assert str(made) == "no \\x1b[31mresults in s3://bucket/x\nhere"
        assert str(pickle.loads(pickle.dumps(made))) == str(made)
