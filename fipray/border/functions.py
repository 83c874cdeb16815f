"""Functions named as `module:function`, since specs cannot hold code."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from fipray.border.protocols import takes
from fipray.errors import UsageError

_NUMBERS = {1: "one argument", 2: "two arguments"}


def function_named(reference: str, arguments: tuple[str, ...]) -> Callable[..., Any]:
    """Import a function by its reference.

    Args:
        reference: "module:function", of a module that can be imported wherever the spec is used.
        arguments: descriptions of the arguments that the function is called with, one or two.

    Returns:
        The function.

    Raises:
        UsageError: if there is no such function, or it takes other arguments.
    """
    function = imported(reference)
    # Found out now, and not by a worker after hours of tracing.
    if not takes(function, (None,) * len(arguments)):
        raise UsageError(
            f"{reference!r} names a function that does not take {_NUMBERS[len(arguments)]}, {' and '.join(arguments)}"
        )
    return function


def imported(reference: str) -> Callable[..., Any]:
    """Import a function by its reference, whatever its arguments.

    Args:
        reference: "module:function", of a module that can be imported wherever it is used.

    Returns:
        The function.

    Raises:
        UsageError: if there is no such function.
    """
    module_name, _, name = reference.partition(":")
    if not (module_name and name):
        raise UsageError(
            f"a function must be given as module:function, such as my.module:latency; {reference!r} was given"
        )
    try:
        function = getattr(import_module(module_name), name)
    except ImportError as error:
        raise UsageError(
            f"the module of {reference!r} cannot be imported: {error}. Run from the folder that holds it, or put it on "
            "PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise UsageError(f"{module_name} has no function {name!r}: {error}") from error
    if not callable(function):
        raise UsageError(f"{reference!r} names a {type(function).__name__}, which is not a function")
    found: Callable[..., Any] = function
    return found
