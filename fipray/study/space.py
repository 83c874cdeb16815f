"""What a search may choose from: fields of a spec by their dotted names, and the values that each may have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, get_type_hints

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec


@spec("uniform")
@checked
@dataclass(frozen=True)
class Uniform:
    """Any number from `low` to `high`, each as likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_order(self)

    @property
    def extremes(self) -> tuple[Any, ...]:
        return float(self.low), float(self.high)

    def value(self, drawn: Any) -> float:
        return float(drawn)


@spec("log_uniform")
@checked
@dataclass(frozen=True)
class LogUniform:
    """Any number from `low` > 0 to `high`, each order of magnitude as likely."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_order(self)
        if not self.low > 0:
            raise UsageError(f"the logarithm of low={self.low} is no number: LogUniform begins above 0")

    @property
    def extremes(self) -> tuple[Any, ...]:
        return float(self.low), float(self.high)

    def value(self, drawn: Any) -> float:
        return float(drawn)


@spec("integers")
@checked
@dataclass(frozen=True)
class Integers:
    """Any whole number from `low` to `high`, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _check_order(self)

    @property
    def extremes(self) -> tuple[Any, ...]:
        return int(self.low), int(self.high)

    def value(self, drawn: Any) -> int:
        return int(drawn)


@spec("choice")
@checked
@dataclass(frozen=True)
class Choice:
    """One of `values`: whatever a spec may hold, such as two steppers. What is drawn is its place among them."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("a choice is among one or more values; none was given")

    @property
    def extremes(self) -> tuple[Any, ...]:
        return tuple(self.values)

    def value(self, drawn: Any) -> Any:
        return self.values[int(drawn)]


Domain = Uniform | LogUniform | Integers | Choice


def with_fields(spec: Any, values: Mapping[str, Any]) -> Any:
    """A copy of `spec` whose fields, named with dots (and in a tuple by their place, from 0), have these values.

    Raises UsageError for a name that there is not, listing those there are.
    """
    for name, value in values.items():
        spec = _with(spec, spec, name, name.split("."), value)
    return spec


def check(spec: Any, space: Mapping[str, Domain]) -> None:
    """Raises UsageError for a space that does not fit the spec. The extremes of each field are to be valid beside what
    the spec says of the others.
    """
    for name, domain in space.items():
        if within := [other for other in space if name.startswith(f"{other}.")]:
            raise UsageError(f"{name} is a part of {within[0]}, which is searched too: search one of them")
        if isinstance(domain, (Uniform, LogUniform)) and _type_of(spec, name) is int:
            raise UsageError(f"{name} is a whole number: give Integers or a Choice, not {domain}")
        for value in domain.extremes:
            try:
                with_fields(spec, {name: value})
            except (UsageError, TypeError) as error:
                raise UsageError(f"{name}={value!r}: {error}") from error


def _with(whole: Any, part: Any, name: str, steps: list[str], value: Any) -> Any:
    first, *rest = steps
    inner = _parts(part)
    if first not in inner:
        valid = ", ".join(_names(whole, ""))
        raise UsageError(f"{type(whole).__name__} has no field {name!r}; it has: {valid}")
    new = _with(whole, inner[first], name, rest, value) if rest else value
    if isinstance(part, tuple):
        return (*part[: int(first)], new, *part[int(first) + 1 :])
    return replace(part, **{first: new})


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, tuple):
        return {str(number): item for number, item in enumerate(value)}
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return {}


def _names(value: Any, before: str) -> Iterator[str]:
    for name, part in _parts(value).items():
        yield before + name
        yield from _names(part, f"{before}{name}.")


def _type_of(spec: Any, name: str) -> Any:
    *outer, last = name.split(".")
    for step in outer:
        spec = _parts(spec).get(step)
    return None if isinstance(spec, tuple) else get_type_hints(type(spec)).get(last)


def _check_order(domain: Uniform | LogUniform | Integers) -> None:
    if not -math.inf < domain.low < domain.high < math.inf:
        raise UsageError(
            f"{type(domain).__name__} goes from low up to high, both finite; {domain.low} and {domain.high} were given"
        )
