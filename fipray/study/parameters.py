"""Parsing of `name=value` texts into arguments of a study function."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, get_type_hints

from fipray.errors import UsageError
from fipray.study.parsing import NO_TYPE, parsed, says_nothing, type_of

_NAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_NAME = re.compile(r"[^\W\d]\w*")


def parse(function: Callable[..., Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Parse texts into keyword arguments of a function.

    Args:
        function: study function. Annotations give the types of its parameters, defaults where there are none.
        assignments: texts `name=value`; the last of several with one name counts.

    Returns:
        Values by parameter name.

    Raises:
        UsageError: for an unknown name, a missing required one, an invalid value, and a parameter of unknown type.
    """
    parameters = _parameters(function)
    rest = next((p for p in parameters.values() if p.kind is p.VAR_KEYWORD), None)
    named = {name: p for name, p in parameters.items() if p.kind in _NAMED}
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name:
            raise UsageError(f"a parameter must be given as name=value, got {assignment!r}")
        parameter = named.get(name) or (rest if _NAME.fullmatch(name) else None)
        if parameter is None:
            raise UsageError(f"the study has no parameter {name!r}; it has: {', '.join(named) or 'none'}")
        values[name] = _value(function, name, parameter, text)
    missing = [name for name, p in named.items() if p.default is p.empty and name not in values]
    if missing:
        raise UsageError(f"the study needs {', '.join(missing)}: give -p {missing[0]}=value")
    return values


def call(function: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Call a function with arguments by name.

    Args:
        function: function.
        values: arguments by parameter name; those of positional-only parameters are passed by position.

    Returns:
        Return value of the function.
    """
    parameters = _parameters(function).values()
    places = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
    given = [p.name in values for p in places]
    last = len(given) - given[::-1].index(True) if any(given) else 0
    # Positions cannot be skipped: those before the last given one are filled with their defaults.
    positional = [values.get(p.name, p.default) for p in places[:last]]
    names = {p.name for p in places}
    return function(*positional, **{name: value for name, value in values.items() if name not in names})


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _value(function: Callable[..., Any], name: str, parameter: inspect.Parameter, text: str) -> Any:
    hint = _hint(function, parameter)
    if hint is NO_TYPE:
        hint = type_of(parameter.default) if parameter.default is not parameter.empty else NO_TYPE
    if hint is NO_TYPE:
        raise UsageError(
            f"the type of parameter {name!r} is unknown, so the text {text!r} cannot be parsed: annotate it in "
            f"{getattr(function, '__qualname__', function)}, as in {name}: float"
        )
    try:
        return parsed(text, hint)
    except ValueError as error:
        raise UsageError(f"parameter {name}={text!r}: {error}") from error


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Annotation of a parameter; NO_TYPE where it is missing, cannot be evaluated, or allows anything."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return NO_TYPE
    # Each annotation is evaluated alone, so that one which only type checkers can resolve does not spoil the others.
    holder = SimpleNamespace(__annotations__={"it": annotation})
    # A decorator's wrapper has the globals of the decorator's module, in which the annotation has no meaning.
    names = getattr(inspect.unwrap(function), "__globals__", {})
    try:
        # With extras: limits in `Annotated` would be dropped otherwise, and values outside of them accepted.
        hint = get_type_hints(holder, globalns=names, include_extras=True)["it"]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return NO_TYPE
    return NO_TYPE if says_nothing(hint) else hint
