"""Checks of the values that users' own functions and objects return."""

from __future__ import annotations

from typing import Any

from fipray.border.wording import a_class, described
from fipray.errors import UsageError


def number(value: Any, who: str) -> float:
    """Convert a returned value to a float.

    Args:
        value: the value.
        who: name of the function that returned it, for the error message.

    Returns:
        The number.

    Raises:
        UsageError: if the value is not a real number or an array of one.
    """
    try:
        # float() also takes strings, and arrays [1] of numpy and torch, which are more likely mistakes.
        single = getattr(value, "shape", ()) == () and not isinstance(value, (str, bytes))
        if single:
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise UsageError(f"{who} returned {described(value)}; expected a number")


def an_instance(value: Any, cls: type, who: str) -> Any:
    """Check the class of a returned value.

    Args:
        value: the value.
        cls: the class that it must be an instance of.
        who: name of the function that returned it, for the error message.

    Returns:
        `value`.

    Raises:
        UsageError: if it is not.
    """
    if not isinstance(value, cls):
        raise UsageError(f"{who} returned {described(value)}; expected {a_class(cls.__name__)}")
    return value


def shaped_like(value: Any, like: Any, who: str) -> Any:
    """Check shape, dtype and device of a returned array.

    Args:
        value: the value.
        like: an array with the class, shape, dtype and device that it must have.
        who: name of the function that returned it, for the error message.

    Returns:
        `value`.

    Raises:
        UsageError: if it differs.
    """
    same = isinstance(value, type(like)) and value.shape == like.shape and value.dtype == like.dtype
    if not same or value.device != like.device:
        where = f" on {value.device} instead of {like.device}" if same else ""
        raise UsageError(f"{who} returned {described(value)}{where}; expected {described(like)}")
    return value
