"""Text to show: control characters escaped, credentials removed from addresses, bounds of attacks as people write them.

Names, file names and messages of exceptions come from users, results directories and other libraries. A terminal would
execute escape sequences in them, and a bidirectional override would show them in another order.
"""

import re

_LINES = "\t\n"
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, the start of escape sequences among them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks, embeddings, overrides and isolates
    "\u2028\u2029\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # separators, byte order marks, annotations, tags
    "\ud800-\udfff]"  # lone surrogates, which cannot be encoded
)
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/{1,2}[^\s'\"]+")  # one slash, too: pathlib collapses the two of an address
# The password may hold an unescaped slash, as secret keys of S3 do: "s3://KEY:SE/CR+ET@bucket".
_USER = re.compile(r"(?<=:/)(/?)(?:[^/?#]*@|[^@?#]*:[^?#]*@)")
_SECRET = re.compile(r"(?i)(?<=[?&])[\w.-]*(?:key|secret|token|password|passwd|credential|signature)[\w.-]*=[^&#]*&?")


def printable(text: object) -> str:
    r"""Escape control characters, line breaks included.

    Args:
        text: anything with a `str`.

    Returns:
        The text in one line, with escapes such as `\x1b` or `\n`.
    """
    return _HIDDEN.sub(_escaped, str(text))


def printable_lines(text: object) -> str:
    """Escape control characters except line breaks and tabs.

    Args:
        text: anything with a `str`.

    Returns:
        The text, which may have several lines.
    """
    return _HIDDEN.sub(lambda found: found[0] if found[0] in _LINES else _escaped(found), str(text))


def without_credentials(text: object) -> str:
    """Remove user, password and secret parameters from all addresses in a text.

    Args:
        text: anything with a `str`, such as "s3://KEY:SECRET@bucket/results?secret_key=SECRET".

    Returns:
        The text without them, "s3://bucket/results".
    """
    return _ADDRESS.sub(lambda found: _SECRET.sub("", _USER.sub(r"\1", found[0])).rstrip("?&"), str(text))


def epsilon_text(epsilon: float) -> str:
    """Write the bound of a threat model as people write it: 8/255, 0.1, 1.5.

    Args:
        epsilon: the bound.

    Returns:
        A fraction of 255 for multiples of 1/255 that are no short decimal, and a decimal for all others.
    """
    levels = epsilon * 255
    # 0.2 is 51/255, and nobody writes it so. The tolerance admits float32 and texts with six digits.
    is_short = float(f"{epsilon:.3g}") == epsilon
    if not is_short and round(levels) >= 1 and abs(levels - round(levels)) < 1e-4:
        return f"{round(levels)}/255"
    return f"{epsilon:g}"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
