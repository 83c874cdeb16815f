"""Valid names, attempt numbers and digests. Every part of a file name in a results directory is one of these."""

import re

from fipray.errors import UsageError

# Always used with fullmatch: `$` would accept a trailing line break.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# No leading zeros: each number has a single directory name.
ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")
MOST_ATTEMPTS = 999_999_999
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_name(name: object) -> bool:
    """Test whether a value is a valid name of a study, ID, commit or weights file.

    Args:
        name: any value.

    Returns:
        Whether it is 1 to 64 letters, digits, dots, dashes and underscores that begins with a letter or digit.
    """
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def is_attempt(number: object) -> bool:
    """Test whether a value is a valid attempt number.

    Args:
        number: any value.

    Returns:
        Whether it is an integer from 1 to `MOST_ATTEMPTS`.
    """
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MOST_ATTEMPTS


def is_sha256(text: object) -> bool:
    """Test whether a value is a SHA-256 digest.

    Args:
        text: any value.

    Returns:
        Whether it is a text of 64 hexadecimal digits in lower case.
    """
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def checked_name(name: str) -> str:
    """Validate a name.

    Args:
        name: name of a study, ID, commit or weights file.

    Returns:
        The same name.

    Raises:
        UsageError: if it is not a valid name, see `is_name`.
    """
    if not is_name(name):
        raise UsageError(
            f"{name!r} is not a valid name: names have 1 to 64 letters, digits, dots, dashes and underscores, and "
            "begin with a letter or digit"
        )
    return name


def checked_attempt(attempt: int) -> int:
    """Validate an attempt number.

    Args:
        attempt: number of an attempt.

    Returns:
        The same number.

    Raises:
        UsageError: if it is out of range.
    """
    if not is_attempt(attempt):
        raise UsageError(f"attempts are numbered from 1 to {MOST_ATTEMPTS:,}; {attempt} is out of range")
    return attempt
