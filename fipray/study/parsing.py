"""Parsing of command-line text into values of a given type.

Understands numbers (also fractions such as 8/255), true and false, "none", names of enumerations, and lists of them:
`3,4`, `[3,4]` and `(3,4)` are the same.
"""

from __future__ import annotations

import math
import re
import types
from collections import abc
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from fipray.errors import UsageError

NO_TYPE: Final = object()
"""Marker for a parameter of unknown type."""

_OPENING, _CLOSING, _QUOTES = "([{", ")]}", "'\""
_NONE = ("none", "null")
_FRACTION = re.compile(r"\s*([^/\s]+)\s*/\s*([^/\s]+)\s*")
_SEQUENCES: dict[Any, type] = {
    **{kind: kind for kind in (tuple, list, set, frozenset)},
    **dict.fromkeys((abc.Sequence, abc.Iterable, abc.Collection), tuple),
    **dict.fromkeys((abc.MutableSequence,), list),
    **dict.fromkeys((abc.Set, abc.MutableSet), set),
}
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)


def says_nothing(hint: Any) -> bool:
    """Check whether an annotation allows anything, or a container of anything.

    Args:
        hint: annotation.

    Returns:
        True where it does not determine how a text is parsed.
    """
    return hint in (Any, object) or (not get_args(hint) and (hint in _SEQUENCES or hint in _MAPPINGS))


def type_of(default: Any) -> Any:
    """Type of a parameter, inferred from its default.

    Args:
        default: default value.

    Returns:
        Type, such as `tuple[int, ...]`; NO_TYPE for None, empty containers, and containers of several types.
    """
    if default is None or (isinstance(default, (list, tuple, set, frozenset, dict)) and not default):
        return NO_TYPE
    if isinstance(default, tuple):
        kinds = [type_of(item) for item in default]
        if NO_TYPE in kinds:
            return NO_TYPE
        return tuple[kinds[0], ...] if all(kind == kinds[0] for kind in kinds) else tuple[tuple(kinds)]  # type: ignore[misc, valid-type]
    if isinstance(default, (list, set, frozenset)):
        kind = _only(map(type_of, default))
        return NO_TYPE if kind is NO_TYPE else type(default)[kind]  # type: ignore[index]
    if isinstance(default, dict):
        key, value = _only(map(type_of, default)), _only(map(type_of, default.values()))
        return NO_TYPE if NO_TYPE in (key, value) else dict[key, value]  # type: ignore[valid-type]
    return type(default)


def parsed(text: str, hint: Any) -> Any:
    """Parse a text as a value of a type.

    Args:
        text: text.
        hint: type annotation.

    Returns:
        Value.

    Raises:
        ValueError: for a text that is not of this type, with what is valid.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is str:
        return text
    if hint is None or hint is type(None):
        return _none(text)
    # Not `bool(text)`, which is true for every text but the empty one, also for "false".
    if hint in (bool, int):
        return _by_pydantic(text.strip(), hint)
    if hint is float:
        return _number(text)
    if origin is Literal:
        return _one_of(text, {_written(option): option for option in arguments})
    if origin in (Union, types.UnionType):
        return _first_of(text, arguments)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _one_of(text, {_written(each.value): each for each in hint} | {each.name: each for each in hint})
    if (origin or hint) in _SEQUENCES:
        return _several(text, _SEQUENCES[origin or hint], arguments)
    if (origin or hint) in _MAPPINGS:
        return _mapping(text, arguments)
    if origin is Annotated:
        # Parsed as the plain type first: pydantic reads neither fractions nor lists without brackets.
        return _by_pydantic(parsed(text, arguments[0]), hint)
    # A `type X = ...` statement (Python 3.12) makes an alias object that holds the actual type in `__value__`.
    if isinstance(alias := getattr(hint, "__value__", None), type) or get_origin(alias):
        return parsed(text, alias)
    return _by_pydantic(text, hint)


def number(given: float | str) -> float:
    """Convert a text such as "8/255" to a number; numbers stay as they are.

    Args:
        given: number, or a text with a number or a fraction of two.

    Returns:
        The number.

    Raises:
        UsageError: for any other text, and NaN.
    """
    try:
        return _number(given) if isinstance(given, str) else float(given)
    except ValueError as error:
        raise UsageError(f"{given!r} is no number: {error}") from error


def literal(text: str) -> bool | int | float | str | None:
    """Parse a text by its looks.

    Args:
        text: text.

    Returns:
        None, a boolean, a number (also for a fraction), or the text itself.
    """
    for hint in (None, bool, int, float):
        # "0" and "1" are numbers, although pydantic takes them for booleans.
        if hint is not bool or text.strip().lower() in ("true", "false"):
            try:
                value: bool | int | float | None = parsed(text, hint)
                return value
            except ValueError:
                continue
    return text


def _none(text: str) -> None:
    if text.strip().lower() not in _NONE:
        raise ValueError("it can only be none")


def _number(text: str) -> float:
    """Parse a number or a fraction of two numbers."""
    fraction = _FRACTION.fullmatch(text)
    try:
        value = float(fraction[1]) / float(fraction[2]) if fraction else float(text)
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError("it should be a number, such as 0.03, 3e-2 or 8/255") from error
    if math.isnan(value):
        raise ValueError("it should be a number, not NaN")
    return value


def _written(option: Any) -> str:
    """Text of an option: as in Python, but strings without quotes."""
    return option if isinstance(option, str) else str(option)


def _one_of(text: str, options: dict[str, Any]) -> Any:
    # Strings must match exactly; of the others, such as True and None, the case does not matter.
    for written, option in options.items():
        if text == written or (not isinstance(option, (str, Enum)) and text.strip().lower() == written.lower()):
            return option
    raise ValueError(f"it should be {' or '.join(repr(written) for written in options)}")


def _first_of(text: str, options: Sequence[Any]) -> Any:
    """Parse a text as the first type of a union that accepts it; `str`, which accepts anything, is tried last."""
    if type(None) in options and text.strip().lower() in _NONE:
        return None
    reasons = []
    for option in sorted((each for each in options if each is not type(None)), key=lambda each: each is str):
        try:
            return parsed(text, option)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; or ".join(dict.fromkeys(reasons)) + ("; or none" if type(None) in options else ""))


def _several(text: str, kind: type, arguments: Sequence[Any]) -> Any:
    items = _items(text)
    if not arguments:
        hints: list[Any] = [str] * len(items)
    elif kind is not tuple or arguments[-1] is Ellipsis:
        hints = [arguments[0]] * len(items)
    else:
        hints = list(arguments)
    if len(hints) != len(items):
        raise ValueError(f"it should have {len(hints)} items, but has {len(items)}")
    return kind(parsed(item, hint) for item, hint in zip(items, hints, strict=True))


def _mapping(text: str, arguments: Sequence[Any]) -> dict[Any, Any]:
    key_hint, value_hint = arguments or (str, str)
    found = {}
    for item in _items(text):
        parts = _split(item, ":=")
        if len(parts) != 2:
            raise ValueError("it should be pairs such as a:1,b:2")
        key, value = (_unquoted(part) for part in parts)
        found[parsed(key, key_hint)] = parsed(value, value_hint)
    return found


def _items(text: str) -> list[str]:
    """Split a text at commas, after removing brackets around the whole."""
    text = text.strip()
    if text and text[0] in _OPENING and _end_of_bracket(text) == len(text) - 1:
        text = text[1:-1].strip()
    if not text:
        return []
    items = [item.strip() for item in _split(text, ",")]
    if items[-1] == "":
        items.pop()  # trailing comma, as in (3,)
    return [_unquoted(item) for item in items]


def _split(text: str, separators: str) -> list[str]:
    """Split a text at separators outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES and not parts[-1].strip():  # not within a word, such as "don't"
            quote = letter
        else:
            depth += (letter in _OPENING) - (letter in _CLOSING)
            if depth < 0:
                break
            if depth == 0 and letter in separators:
                parts.append("")
                continue
        parts[-1] += letter
    if quote or depth:
        raise ValueError("brackets and quotes should come in pairs")
    return parts


def _end_of_bracket(text: str) -> int:
    """Index of the bracket that closes the first character of a text; -1 for none."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if depth == 0:
            return place
    return -1


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES else text


def _by_pydantic(value: Any, hint: Any) -> Any:
    try:
        adapter = TypeAdapter(hint)
    except PydanticUserError as error:
        raise ValueError(f"a {getattr(hint, '__name__', hint)} cannot be given as text") from error
    try:
        return adapter.validate_strings(value) if isinstance(value, str) else adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error


def _only(kinds: abc.Iterable[Any]) -> Any:
    """Type common to all; NO_TYPE where they differ."""
    found = list(kinds)
    return found[0] if all(kind == found[0] for kind in found) else NO_TYPE
