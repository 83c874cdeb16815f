"""Specs as canonical JSON and back.

A spec is a frozen dataclass of numbers, strings, tuples and further such dataclasses. It is written as an object with
its fields and a `kind`: the registered name of its class (`registry.spec`), or `module:Class` of one without.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import Field, fields, is_dataclass
from importlib import import_module
from typing import Any

from fipray.errors import UsageError
from fipray.registry import registered_class, registered_name, registered_names

_INFINITE = "number"  # the one field of what stands for "inf" or "-inf", which JSON does not have


def encode(value: Any) -> Any:
    """`value` as plain JSON data. Raises UsageError for what a spec cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        if math.isnan(value):
            raise UsageError("a spec holds numbers; NaN is none")
        return {_INFINITE: str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": kind_of(value), **{each.name: encode(_number(value, each)) for each in fields(value)}}
    raise UsageError(
        f"a spec holds numbers, strings, tuples and frozen dataclasses of them; {value!r} is a {type(value).__name__}"
    )


def _number(spec: Any, field: Field[Any]) -> Any:
    """What is in a field; where it asks for a float an integer as one, so that equal specs are written alike."""
    value = getattr(spec, field.name)
    return float(value) if type(value) is int and field.type in (float, "float") else value


def decode(data: Any) -> Any:
    """What `encode` made `data` of. Raises UsageError for an unknown kind, and for unknown, missing or wrong fields."""
    if isinstance(data, list):
        return tuple(decode(item) for item in data)
    if not isinstance(data, dict):
        return data
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
        raise UsageError(f"{cls.__name__} cannot be made of {given}: {error}") from error


def kind_of(value: Any) -> str:
    """The name under which `decode` finds the class of `value`."""
    cls = type(value)
    return registered_name(cls) or f"{cls.__module__}:{cls.__qualname__}"


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, no NaN; the same text for the same spec on any machine."""
    return json.dumps(encode(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> Any:
    try:
        return decode(json.loads(text))
    except json.JSONDecodeError as error:
        raise UsageError(f"this is no JSON: {error}") from error


def digest(*parts: str) -> str:
    """16 hexadecimal digits that tell these texts from any others."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _class_named(kind: Any) -> type:
    found = None
    if isinstance(kind, str):
        found = _imported(kind) if ":" in kind else registered_class(kind)
    if found is None:
        raise UsageError(
            f"{kind!r} names no kind of spec: import the module that registers it first; registered are: "
            + ", ".join(registered_names())
        )
    if not (isinstance(found, type) and is_dataclass(found)):
        raise UsageError(f"{kind!r} is no kind of spec: a spec is a frozen dataclass")
    return found


def _imported(kind: str) -> Any:
    try:
        module, name = kind.split(":")
        return getattr(import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise UsageError(f"{kind!r} names no kind of spec: {error}") from error
