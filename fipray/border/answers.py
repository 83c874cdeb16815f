"""What functions and objects of a user's own return, checked when they are called."""

from __future__ import annotations

from typing import Any

from fipray.border.wording import a_class, described
from fipray.errors import UsageError


def number(value: Any, who: str) -> float:
    """`value`, which `who` returned, as a float. Raises UsageError where it is no real number."""
    try:
        single = getattr(value, "shape", ()) == () and not isinstance(value, (str, bytes))
        if single:
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise UsageError(f"{who} returned {described(value)}; expected a number")


def an_instance(value: Any, cls: type, who: str) -> Any:
    """`value`, which `who` returned. Raises UsageError where it is no instance of the class."""
    if not isinstance(value, cls):
        raise UsageError(f"{who} returned {described(value)}; expected {a_class(cls.__name__)}")
    return value


def shaped_like(value: Any, like: Any, who: str) -> Any:
    """`value`, which `who` returned. Raises UsageError where it is no array like another in shape, dtype and device."""
    same = isinstance(value, type(like)) and value.shape == like.shape and value.dtype == like.dtype
    if not same or value.device != like.device:
        where = f" on {value.device}, where {like.device} is meant" if same else ""
        raise UsageError(f"{who} returned {described(value)}{where}; expected {described(like)}")
    return value
