"""Members that objects lack of a protocol, and arguments that functions accept."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


def lacking(value: Any, protocol: Any) -> tuple[str, ...]:
    """Members of a protocol that an object lacks.

    Args:
        value: the object. A class lacks all members, since its methods need an instance.
        protocol: the protocol class.

    Returns:
        Names of members that are missing, or are methods that do not accept the protocol's arguments.
    """
    if isinstance(value, type):
        return _members(protocol)
    return tuple(name for name in _members(protocol) if not _has(value, protocol, name))


@cache
def _members(protocol: Any) -> tuple[str, ...]:
    inherited = [one for one in protocol.__mro__ if getattr(one, "_is_protocol", False)]
    return tuple(name for one in inherited for name in vars(one) if not name.startswith("_"))


def _has(value: Any, protocol: Any, name: str) -> bool:
    if not hasattr(value, name):
        return False
    # getattr_static returns a property itself, where getattr would call it.
    asked = inspect.getattr_static(protocol, name)
    if not inspect.isfunction(asked):
        return True
    # Taken from the class, so the first parameter is self.
    parameters = list(inspect.signature(asked).parameters.values())[1:]
    given = [None for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    named = {one.name: None for one in parameters if one.kind is one.KEYWORD_ONLY}
    return takes(getattr(value, name), given, named)


def takes(function: Any, given: Sequence[Any], named: Mapping[str, Any] | None = None) -> bool:
    """Check that a function accepts arguments, by its signature.

    Args:
        function: anything.
        given: positional arguments.
        named: keyword arguments.

    Returns:
        True if it can be called with them, as far as its signature says.
    """
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*given, **(named or {}))
    except TypeError:
        return False
    except ValueError:  # functions written in C may have no signature
        return True
    return True
