"""Where things are in a results directory. Names are checked here, so that none of them can leave it.

    study.json                                  the manifest: which study this is, and with which parameters
    base.safetensors, base.sha256               weights of the network that every path starts from, and their digest
    commits/<name>.json                         a commit record: which attempts count, and digests of its tables
    <table>/<name>.parquet                      the rows of the ids in it; it is named after the first of them
    weights/<id>/<attempt>/<name>.safetensors   weights, named in a row
    logs/<id>/<attempt>.log                     what an attempt printed and warned; no row or record names it
    .lock, .locks/<token>                       held while something is written, on a file system and in an object store
    .tune/<study_id>/                           what Ray Tune keeps of a search

Files are given relative to the directory, with forward slashes, as they stand in rows and commit records.
The directory may be a link; links inside it are refused, so that one from elsewhere leads nowhere.
"""

import re
from pathlib import PurePosixPath

from fipray.errors import RecordsError, UsageError

MANIFEST, BASE, BASE_SHA256, LOCK = "study.json", "base.safetensors", "base.sha256", ".lock"
COMMITS, WEIGHTS, LOGS = "commits", "weights", "logs"

MOST_ATTEMPTS = 999_999_999

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ATTEMPT = re.compile(r"[1-9][0-9]{0,8}")
_WEIGHTS_FILE = re.compile(rf"{WEIGHTS}/({_NAME.pattern})/({_ATTEMPT.pattern})/({_NAME.pattern})\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_name(name: object) -> bool:
    """Whether it can be the name of a study or a part of a file's name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def is_attempt(number: object) -> bool:
    """Whether it is a number that an attempt can have."""
    return isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= MOST_ATTEMPTS


def is_sha256(text: object) -> bool:
    """Whether it is a SHA-256 in hexadecimal."""
    return isinstance(text, str) and _SHA256.fullmatch(text) is not None


def checked_name(name: str) -> str:
    """The name, if it can be the name of a study or a part of a file's name. Raises UsageError."""
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot be a name here: names are 1 to 64 letters, digits, dots, dashes and underscores, and "
            "begin with a letter or digit"
        )
    return name


def checked_attempt(attempt: int) -> int:
    """The attempt, if it is a number that an attempt can have. Raises UsageError."""
    if not is_attempt(attempt):
        raise UsageError(f"attempts are numbered from 1 to {MOST_ATTEMPTS:,}; {attempt} is none")
    return attempt


def commit_file(name: str) -> str:
    """The commit record of that name."""
    return f"{COMMITS}/{checked_name(name)}.json"


def table_file(table: str, name: str) -> str:
    """The rows of a commit in a table."""
    return f"{table}/{checked_name(name)}.parquet"


def commit_of(file_name: str) -> str | None:
    """The name of the commit that a file among the commits or in a table is of; None if it is of none."""
    name = file_name.removesuffix(".json").removesuffix(".parquet")
    return name if name != file_name and _NAME.fullmatch(name) else None


def attempt_of(name: str) -> int | None:
    """The attempt that a directory of that name is of; None for any other name."""
    return int(name) if _ATTEMPT.fullmatch(name) else None


def attempt_directory(id: str, attempt: int) -> str:
    """Where one attempt at an id writes its weights."""
    return f"{WEIGHTS}/{checked_name(id)}/{checked_attempt(attempt)}"


def weights_file(id: str, attempt: int, name: str) -> str:
    """Weights that one attempt at an id wrote."""
    return f"{attempt_directory(id, attempt)}/{checked_name(name)}.safetensors"


def log_file(id: str, attempt: int) -> str:
    """What one attempt at an id printed and warned."""
    return f"{LOGS}/{checked_name(id)}/{checked_attempt(attempt)}.log"


def checked_weights_file(file: object) -> str:
    """The file, if it can hold weights. Raises RecordsError, since it comes out of a row."""
    if isinstance(file, str) and (file == BASE or _WEIGHTS_FILE.fullmatch(file)):
        return file
    raise RecordsError(f"{file!r} cannot be a weights file: they are {BASE} and {weights_file('ID', 1, 'NAME')}")


def may_name(id: str, attempt: int, file: str) -> bool:
    """Whether rows of that attempt at the id may name the weights file: the base's, its own or an earlier attempt's."""
    match = _WEIGHTS_FILE.fullmatch(file)
    return file == BASE or (match is not None and match[1] == id and int(match[2]) <= attempt)


def step_of(file: str, kind: str) -> int | None:
    """The step in the name of a file that an attempt wrote, such as weights/ID/1/step-00000020.safetensors of the kind
    "step"; None for files of other kinds.
    """
    match = _WEIGHTS_FILE.fullmatch(file)
    number = match[3].removeprefix(f"{kind}-") if match else ""
    return int(number) if match and match[3] != number and re.fullmatch("[0-9]{8,18}", number) else None


def id_of_weights(file: str) -> str | None:
    """The id that a weights file is of; None for the base's, and for other files."""
    match = _WEIGHTS_FILE.fullmatch(file)
    return match[1] if match else None


def remedy(file: str, commit: str | None = None) -> str:
    """What to do about a file that is missing, truncated or altered, as a sentence; `commit`: which it belongs to."""
    if file in (MANIFEST, BASE, BASE_SHA256):
        return "Run the study again, into a new directory."
    name = commit or PurePosixPath(file).stem
    return f"Delete {commit_file(name)} and run the same command again: only what it holds is done again."
