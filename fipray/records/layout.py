"""Names of all files and directories in a results directory. No other module builds or parses them.

    study.json                                  manifest: name, ID and parameters of the study
    base.safetensors, base.sha256               weights of the base network, and their digest
    commits/<name>.json                         commit record: the valid attempts, and digests of their table files
    <table>/<name>.parquet                      rows of that commit, which is named after the first of its IDs
    weights/<id>/<attempt>/<name>.safetensors   weights of one attempt, named in a row
      .../step-<step>.safetensors               weights of a point
      .../state-<step>.safetensors              solver state from which a path resumes; removed once it is committed
    logs/<id>/<attempt>.log                     output and warnings of one attempt; not named anywhere
    .lock, .locks/<token>                       the lock for writers, on a file system and in an object store
    .tune/<study_id>/                           Ray Tune's state of a search
    .fipray-<16 hex digits>-<name>              a file that is being written, before it gets its name
    weights/<id>/<attempt>/.claim-<token>       marks an attempt as taken, in an object store

File names are relative to the results directory, with forward slashes, as in rows and commit records. IDs and names are
validated here, so that none of them can lead outside the directory.
"""

import re
import secrets
from collections.abc import Iterable

from fipray.errors import RecordsError
from fipray.records.encoding import sha256_of
from fipray.records.names import (
    ATTEMPT as _ATTEMPT,
    MOST_ATTEMPTS as MOST_ATTEMPTS,
    NAME as _NAME,
    checked_attempt as checked_attempt,
    checked_name as checked_name,
    is_attempt as is_attempt,
    is_name as is_name,
    is_sha256 as is_sha256,
)

MANIFEST, BASE, BASE_SHA256 = "study.json", "base.safetensors", "base.sha256"
COMMITS, WEIGHTS, LOGS, TUNE, OPTUNA = "commits", "weights", "logs", ".tune", ".optuna"
LOCK, LOCK_TOKENS = ".lock", ".locks"

# None of the groups matches a slash or a leading dot, so what matches stays inside the directory.
_WEIGHTS_FILE = re.compile(rf"{WEIGHTS}/({_NAME.pattern})/({_ATTEMPT.pattern})/({_NAME.pattern})\.safetensors")
_TEMPORARY = re.compile(r"\.fipray-[0-9a-f]{16}-.+")
_STEP, _STATE = "step", "state"


def commit_file(name: str) -> str:
    """File of a commit record.

    Args:
        name: name of the commit.

    Returns:
        File name.
    """
    return f"{COMMITS}/{checked_name(name)}.json"


def commit_entry(name: str) -> str:
    """Entry of a commit record in the directory `commits/`.

    Args:
        name: name of the commit.

    Returns:
        Name within that directory.
    """
    return commit_file(name).removeprefix(f"{COMMITS}/")


def table_file(table: str, name: str) -> str:
    """File of a commit's rows in one table.

    Args:
        table: name of the table.
        name: name of the commit.

    Returns:
        File name.
    """
    return f"{table}/{checked_name(name)}.parquet"


def table_of(file: str) -> str:
    """Table that a file from `table_file` belongs to.

    Args:
        file: file name.

    Returns:
        Name of the table.
    """
    return file.partition("/")[0]


def commit_of(entry: str) -> str | None:
    """Commit that a directory entry of `commits/` or of a table belongs to.

    Args:
        entry: name within that directory, such as "id0.json" or "id0.parquet".

    Returns:
        Name of the commit; None for any other entry.
    """
    name = entry.removesuffix(".json").removesuffix(".parquet")
    return name if name != entry and _NAME.fullmatch(name) else None


def derived_commit(kind: str, names: Iterable[str]) -> str:
    """Name of a commit that replaces others.

    Args:
        kind: "compacted" for one that merges several commits, "kept" for one with the valid part of another.
        names: names of the merged commits, or the IDs that remain valid, in order.

    Returns:
        Name of the commit, the same for the same arguments.
    """
    # A merge that was cut off and runs again overwrites its own files instead of leaving a second set.
    return f"{kind}-{sha256_of(' '.join(names).encode())[:16]}"


def attempts_directory(id: str) -> str:
    """Directory of all attempts at an ID.

    Args:
        id: ID of a job.

    Returns:
        Directory name.
    """
    return f"{WEIGHTS}/{checked_name(id)}"


def attempt_directory(id: str, attempt: int) -> str:
    """Directory where one attempt writes its weights.

    Args:
        id: ID of a job.
        attempt: number of the attempt.

    Returns:
        Directory name.
    """
    return f"{attempts_directory(id)}/{checked_attempt(attempt)}"


def attempt_of(entry: str) -> int | None:
    """Attempt that an entry of `attempts_directory` belongs to.

    Args:
        entry: name within that directory.

    Returns:
        Number of the attempt; None for any other entry.
    """
    return int(entry) if _ATTEMPT.fullmatch(entry) else None


def weights_file(id: str, attempt: int, name: str) -> str:
    """Weights file of one attempt.

    Args:
        id: ID of a job.
        attempt: number of the attempt.
        name: name of the file without its suffix, such as that of `step_name`.

    Returns:
        File name.
    """
    return f"{attempt_directory(id, attempt)}/{checked_name(name)}.safetensors"


def log_file(id: str, attempt: int) -> str:
    """Log file of one attempt.

    Args:
        id: ID of a job.
        attempt: number of the attempt.

    Returns:
        File name.
    """
    return f"{LOGS}/{checked_name(id)}/{checked_attempt(attempt)}.log"


def checked_weights_file(file: object) -> str:
    """Validate the name of a weights file that was read from a row.

    Args:
        file: value of a column `weights_file`.

    Returns:
        The same name.

    Raises:
        RecordsError: if it names anything but a weights file in the results directory.
    """
    if isinstance(file, str) and (file == BASE or _WEIGHTS_FILE.fullmatch(file)):
        return file
    raise RecordsError(f"{file!r} is not a weights file: these are {BASE} and {weights_file('ID', 1, 'NAME')}")


def may_name(id: str, attempt: int, file: str) -> bool:
    """Test whether rows of an attempt may name a weights file.

    Args:
        id: ID of a job.
        attempt: number of the attempt.
        file: file name in the row.

    Returns:
        Whether it is the base's file, or that of this or an earlier attempt at the same ID.
    """
    match = _WEIGHTS_FILE.fullmatch(file)
    return file == BASE or (match is not None and match[1] == id and int(match[2]) <= attempt)


def id_of_weights(file: str) -> str | None:
    """ID that a weights file belongs to.

    Args:
        file: file name.

    Returns:
        The ID; None for the base's file and for files that are not weights.
    """
    match = _WEIGHTS_FILE.fullmatch(file)
    return match[1] if match else None


def step_name(step: int) -> str:
    """Name of the weights file of a point, without directory and suffix.

    Args:
        step: step of the point.

    Returns:
        Name such as "step-00000020".
    """
    # Padded, so that sorting by name sorts by step.
    return f"{_STEP}-{step:08d}"


def state_name(step: int) -> str:
    """Name of the file with the solver state at a point, without directory and suffix.

    Args:
        step: step of the point.

    Returns:
        Name such as "state-00000020".
    """
    return f"{_STATE}-{step:08d}"


def step_of(file: str) -> int | None:
    """Step of a point's weights file.

    Args:
        file: file name, such as weights/ID/1/step-00000020.safetensors.

    Returns:
        The step; None for any other file.
    """
    return _number_in(file, _STEP)


def step_of_state(file: str) -> int | None:
    """Step of a solver state.

    Args:
        file: file name, such as weights/ID/1/state-00000020.safetensors.

    Returns:
        The step; None for any other file.
    """
    return _number_in(file, _STATE)


def state_beside(file: str) -> str:
    """Solver state that was written together with a point's weights.

    Args:
        file: file name of the weights, such as weights/ID/1/step-00000020.safetensors.

    Returns:
        File name, such as weights/ID/1/state-00000020.safetensors.
    """
    return file.replace(f"/{_STEP}-", f"/{_STATE}-")


def temporary_name(name: str) -> str:
    """Draw a name under which a file is written before it is renamed.

    Args:
        name: final name, without directory.

    Returns:
        Random name that begins with a dot, which makes readers of whole directories skip it.
    """
    return f".fipray-{secrets.token_hex(8)}-{name}"


def is_temporary(name: str) -> bool:
    """Test whether a name is one of `temporary_name`.

    Args:
        name: name without directory.

    Returns:
        Whether the file is being written, or was left behind by a writer that died.
    """
    return _TEMPORARY.fullmatch(name) is not None


def claim_name(token: str) -> str:
    """Name of the object that marks an attempt as taken.

    Args:
        token: random text of whoever claims it.

    Returns:
        Name within `attempt_directory`.
    """
    return f".claim-{token}"


def remedy(file: str, commit: str | None = None) -> str:
    """Advice on a file that is missing, truncated or altered.

    Args:
        file: file name.
        commit: commit that it belongs to; by default the one of the same name.

    Returns:
        One sentence.
    """
    if file in (MANIFEST, BASE, BASE_SHA256):
        return "Run the study again, into a new directory."
    name = commit or file.rpartition("/")[2].rpartition(".")[0]
    return f"Delete {commit_file(name)} and run the same command again: only what it holds is done again."


def _number_in(file: str, kind: str) -> int | None:
    match = _WEIGHTS_FILE.fullmatch(file)
    number = match[3].removeprefix(f"{kind}-") if match else ""
    # `step_name` pads to 8 digits; 18 is what a column of int64 can hold.
    return int(number) if match and match[3] != number and re.fullmatch("[0-9]{8,18}", number) else None
