"""File contents of JSON data and arrays: encoding, and validating decoding."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from fipray.errors import UsageError
from fipray.records.bfloat16 import BFLOAT16, as_bits, marked, unmarked

_SEAL = "seal_sha256"
_DEEPEST = 100  # levels of nested objects and lists


def sha256_of(content: bytes) -> str:
    """Compute a SHA-256 digest.

    Args:
        content: content of a file.

    Returns:
        The digest in hexadecimal.
    """
    return hashlib.sha256(content).hexdigest()


def json_bytes(data: Mapping[str, object]) -> bytes:
    """Encode plain data as indented JSON with its own SHA-256 in the key `seal_sha256`.

    Args:
        data: mapping of texts to plain JSON values.

    Returns:
        Content of the file.

    Raises:
        UsageError: if the data is not plain JSON, or is nested too deeply.
    """
    try:
        # Through text and back: tuples become lists, and keys texts, so the digest is of what a reader sees.
        return _sealed(plain_json(json.dumps(data)))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"this is not plain JSON data: {error}") from error


def read_json(content: bytes) -> dict[str, Any]:
    """Decode a file that `json_bytes` wrote.

    Args:
        content: content of the file.

    Returns:
        The data, without its digest.

    Raises:
        ValueError: for anything that `json_bytes` did not write, such as a file with one altered bit.
    """
    data = plain_json(content)
    data.pop(_SEAL, None)
    # Comparing the whole content instead of the digest alone also detects changes of white space and key order.
    if content != _sealed(data):
        raise ValueError("its digest does not match")
    return data


def plain_json(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object from a file or a row.

    Args:
        text: JSON text of an object.

    Returns:
        The object.

    Raises:
        ValueError: for anything else, for an object with a duplicate key, and for more than 100 nested levels.
    """
    try:
        data = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError(f"it is a {type(data).__name__}, not an object")
    # Level by level instead of recursively: callers may recurse over what passes, this check must not.
    level: list[Any] = [data]
    for _ in range(_DEEPEST):
        level = [each for one in level for each in (one.values() if isinstance(one, dict) else one)]
        level = [each for each in level if isinstance(each, (dict, list))]
        if not level:
            return data
    raise ValueError("it is nested too deeply")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError("it has a duplicate key")
    return data


def _sealed(plain: Mapping[str, object]) -> bytes:
    seal = sha256_of(json.dumps(plain, sort_keys=True).encode())
    return json.dumps({**plain, _SEAL: seal}, indent=1).encode() + b"\n"


def safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Encode arrays as a safetensors file.

    Args:
        arrays: numeric arrays by name, of any shape and memory layout; bfloat16 as dtype `BFLOAT16`.

    Returns:
        Content of the file.

    Raises:
        UsageError: for arrays that do not hold numbers.
    """
    # safetensors silently permutes the elements of an array that is not C-contiguous.
    plain, halves = as_bits({name: np.asarray(array, order="C") for name, array in arrays.items()})
    try:
        return marked(safetensors.numpy.save(plain), halves)
    except SafetensorError as error:
        raise UsageError(f"arrays {', '.join(arrays)} cannot be written as safetensors: {error}") from error


def read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    """Decode a safetensors file.

    Args:
        content: content of the file.

    Returns:
        Arrays by name; bfloat16, which numpy lacks, as dtype `BFLOAT16`.

    Raises:
        ValueError: for anything but a valid safetensors file.
    """
    try:
        plain, halves = unmarked(content)
        arrays = safetensors.numpy.load(plain)
        return {name: array.view(BFLOAT16) if name in halves else array for name, array in arrays.items()}
    # The header is also parsed here, and numpy builds the arrays: a damaged file may raise any of these.
    except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"it is not a safetensors file ({type(error).__name__}: {error})") from error
