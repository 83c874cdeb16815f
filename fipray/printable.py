"""Text of anybody's as it may be shown: without control characters, and addresses without their credentials.

Names, outcomes, file names and messages of exceptions come from users, from results directories and from other
libraries. A terminal obeys escape sequences in them, and a bidirectional override shows them in another order.
"""

import re

_LINES = "\t\n"
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0 and C1 controls, escape sequences among them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates of direction
    "\u2028\u2029\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # separators, byte order marks, annotations, tags
    "\ud800-\udfff]"  # halves of surrogate pairs, which no encoding can write
)
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/{1,2}[^\s'\"]+")  # pathlib leaves one slash of two
_USER = re.compile(r"(?<=:/)(/?)(?:[^/?#]*@|[^@?#]*:[^?#]*@)")
_SECRET = re.compile(r"(?i)(?<=[?&])[\w.-]*(?:key|secret|token|password|passwd|credential|signature)[\w.-]*=[^&#]*&?")


def printable(text: object) -> str:
    """The text in one line: control characters, line breaks too, stand as their escapes such as `\\x1b` or `\\n`."""
    return _HIDDEN.sub(_escaped, str(text))


def printable_lines(text: object) -> str:
    """The same of a text of several lines: line breaks and tabs stay."""
    return _HIDDEN.sub(lambda found: found[0] if found[0] in _LINES else _escaped(found), str(text))


def without_credentials(text: object) -> str:
    """The text with every address in it shortened by its user, password and secret parameters, such as
    s3://KEY:SECRET@bucket/results?secret_key=SECRET.
    """
    return _ADDRESS.sub(lambda found: _SECRET.sub("", _USER.sub(r"\1", found[0])).rstrip("?&"), str(text))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
