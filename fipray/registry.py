"""Registered names of spec classes, which results directories and IDs use instead of Python's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from fipray.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_CLASSES: dict[str, type] = {}

ADDED = {"added": True}
"""Metadata of a field that a spec got later: at its default it is not written, so that IDs stay as they were."""

Class = TypeVar("Class", bound=type)


def spec(name: str) -> Callable[[Class], Class]:
    """Register a class of specs under a name.

    The name stands for the class in results directories and in every ID, so the class can be renamed or moved to
    another module without changing either. An unregistered class is written as `module:Class`.

    Args:
        name: lower-case words joined by `_`. Classes outside fipray should have a namespace: "mylab.shrink".

    Returns:
        A class decorator.

    Raises:
        UsageError: for a malformed name, or a name of another class.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be registered: a name consists of lower-case words joined by '_', such as 'mylab.shrink'"
        )

    def register(cls: Class) -> Class:
        other = _CLASSES.get(name)
        if other is not None and _origin(other) != _origin(cls):  # a reloaded module registers its classes again
            raise UsageError(
                f"{name!r} is registered for {_origin(other)}: give {_origin(cls)} another name, such as 'mylab.{name}'"
            )
        _CLASSES[name] = cls
        cls.__spec_name__ = name  # type: ignore[attr-defined]
        return cls

    return register


def registered_name(cls: type) -> str | None:
    """Look up the registered name of a class.

    Args:
        cls: the class.

    Returns:
        Its own name; None if it has none. Names of base classes are not inherited.
    """
    # vars and not getattr, which would find the name of a base class.
    return vars(cls).get("__spec_name__")


def registered_class(name: str) -> type | None:
    """Look up a class by its registered name.

    Args:
        name: the name.

    Returns:
        The class; None if there is none, which may mean that its module is not imported.
    """
    return _CLASSES.get(name)


def registered_classes() -> list[type]:
    """Return all registered classes, in the order of their registration."""
    return list(_CLASSES.values())


def registered_names() -> list[str]:
    """All registered names of imported modules, sorted."""
    return sorted(_CLASSES)


def _origin(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"
