"""Conversion between specs and canonical JSON.

A spec is a frozen dataclass of numbers, strings, tuples and further such dataclasses. It is written as an object with
its fields and a `kind`: the registered name of its class (`registry.spec`), or `module:Class` where it has none. The
registered name is what makes IDs independent of renamed classes.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import Field, fields, is_dataclass
from importlib import import_module
from typing import Any

from fipray.errors import UsageError
from fipray.registry import ADDED, registered_class, registered_name, registered_names

_INFINITE = "number"  # key of the object that represents infinity, which JSON does not have


def encode(value: Any) -> Any:
    """Convert a value to plain JSON data.

    Args:
        value: None, number, string, or a tuple or frozen dataclass of such values.

    Returns:
        Value made of None, numbers, strings, lists and dictionaries.

    Raises:
        UsageError: for NaN, and for any other type.
    """
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            raise UsageError("a spec cannot hold NaN: give a number")
        return {_INFINITE: str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        written = [each for each in fields(value) if not _is_left_out(value, each)]
        return {"kind": kind_of(value), **{each.name: encode(_number(value, each)) for each in written}}
    raise UsageError(
        f"a spec can hold numbers, strings, tuples and frozen dataclasses of them, but {value!r} is a "
        f"{type(value).__name__}"
    )


def _number(spec: Any, field: Field[Any]) -> Any:
    value = getattr(spec, field.name)
    # FirstOrder(beta=1) equals FirstOrder(beta=1.0), so both must be written alike and have one ID.
    return float(value) if type(value) is int and field.type in (float, "float") else value


def _is_left_out(spec: Any, field: Field[Any]) -> bool:
    return field.metadata.items() >= ADDED.items() and bool(getattr(spec, field.name) == field.default)


def decode(data: Any) -> Any:
    """Convert JSON data back to the value that `encode` was given.

    Args:
        data: plain JSON data.

    Returns:
        Spec, tuple, number, string or None.

    Raises:
        UsageError: for an unknown kind, and for unknown, missing or invalid fields.
    """
    if isinstance(data, list):
        return tuple(decode(item) for item in data)
    if not isinstance(data, dict):
        return data
    # Unambiguous: every other object has the key `kind`.
    if set(data) == {_INFINITE}:
        return float(data[_INFINITE])
    given = dict(data)
    cls = _class_named(given.pop("kind", None))
    valid = [field.name for field in fields(cls)]
    unknown = sorted(set(given) - set(valid))
    if unknown:
        raise UsageError(f"{cls.__name__} has no field {', '.join(map(repr, unknown))}; it has: {', '.join(valid)}")
    try:
        return cls(**{name: decode(item) for name, item in given.items()})
    except TypeError as error:
        raise UsageError(f"{cls.__name__} cannot be made from {given}: {error}") from error


def kind_of(value: Any) -> str:
    """Name under which `decode` finds the class of a spec.

    Args:
        value: spec.

    Returns:
        Registered name of its class, or `module:Class`.
    """
    cls = type(value)
    return registered_name(cls) or f"{cls.__module__}:{cls.__qualname__}"


def to_json(value: Any) -> str:
    """Write a value as canonical JSON: sorted keys, no spaces, no NaN.

    Args:
        value: value that `encode` accepts.

    Returns:
        Text, the same for equal specs on any machine.

    Raises:
        UsageError: for a value that a spec cannot hold.
    """
    # Sorted, so that the order of a class's fields can change without changing any ID.
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> Any:
    """Read a value from JSON.

    Args:
        text: text from `to_json`.

    Returns:
        Value.

    Raises:
        UsageError: for text that is not JSON, and for data that is not a spec.
    """
    try:
        return decode(json.loads(text))
    except json.JSONDecodeError as error:
        raise UsageError(f"this is not valid JSON: {error}") from error


def digest(*parts: str) -> str:
    """Compute a digest of texts.

    Args:
        *parts: texts, in order.

    Returns:
        First 16 hexadecimal digits of their SHA-256.
    """
    # The separator distinguishes ("ab", "c") from ("a", "bc").
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _class_named(kind: Any) -> type:
    found = None
    if isinstance(kind, str):
        found = _imported(kind) if ":" in kind else registered_class(kind)
    if found is None:
        raise UsageError(
            f"{kind!r} is not a known kind of spec: import the module that registers it first; registered are: "
            + ", ".join(registered_names())
        )
    # `module:name` from a file could name anything that can be called, and `decode` is about to call it.
    if not (isinstance(found, type) and is_dataclass(found)):
        raise UsageError(f"{kind!r} is not a kind of spec: a spec is a frozen dataclass")
    return found


def _imported(kind: str) -> Any:
    try:
        module, name = kind.split(":")
        return getattr(import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise UsageError(f"{kind!r} is not a known kind of spec: {error}") from error
