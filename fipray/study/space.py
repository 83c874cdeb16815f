"""Search space: fields of a spec by dotted name, and the domain of each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, get_type_hints

import numpy as np

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec


class _Numbers(ABC):
    """Domain of numbers between two bounds."""

    low: Any
    high: Any
    kind: ClassVar[type] = float

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise UsageError(
                f"{type(self).__name__} needs finite bounds with low < high, got low={self.low} and high={self.high}"
            )

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Smallest and largest value."""
        return self.kind(self.low), self.kind(self.high)

    @property
    def size(self) -> int | None:
        """Number of values; None for a continuous domain."""
        return None if self.kind is float else self.high - self.low + 1

    def value(self, drawn: Any) -> Any:
        """Convert a drawn value to the value of the field.

        Args:
            drawn: number drawn from the domain.

        Returns:
            The number as a float or an int.
        """
        # Searchers may return numpy's numbers, which canonical JSON refuses.
        return self.kind(drawn)

    def draw(self, generator: np.random.Generator) -> Any:
        """Draw at random.

        Args:
            generator: source of the draw.

        Returns:
            A number in the domain.
        """
        return self.kind(self._drawn(generator))

    @abstractmethod
    def _drawn(self, generator: np.random.Generator) -> Any: ...


@spec("uniform")
@checked
@dataclass(frozen=True)
class Uniform(_Numbers):
    """Uniform distribution of a number.

    Args:
        low: smallest value, finite.
        high: largest value, finite and above `low`.

    Raises:
        UsageError: for bounds that are not finite or not in this order.
    """

    low: float
    high: float

    def _drawn(self, generator: np.random.Generator) -> Any:
        return generator.uniform(self.low, self.high)


@spec("log_uniform")
@checked
@dataclass(frozen=True)
class LogUniform(_Numbers):
    """Distribution of a number whose logarithm is uniform.

    Args:
        low: smallest value, above 0.
        high: largest value, finite and above `low`.

    Raises:
        UsageError: for bounds that are not positive, not finite, or not in this order.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self)

    def _drawn(self, generator: np.random.Generator) -> Any:
        return _log_uniform(generator, self.low, self.high)


@spec("integers")
@checked
@dataclass(frozen=True)
class Integers(_Numbers):
    """Uniform distribution of an integer.

    Args:
        low: smallest value, included.
        high: largest value, included, and above `low`.

    Raises:
        UsageError: for bounds that are not in this order.
    """

    low: int
    high: int
    kind: ClassVar[type] = int

    def _drawn(self, generator: np.random.Generator) -> Any:
        return generator.integers(self.low, self.high + 1)


@spec("log_integers")
@checked
@dataclass(frozen=True)
class LogIntegers(_Numbers):
    """Distribution of an integer whose logarithm is uniform, rounded down.

    Args:
        low: smallest value, included, above 0.
        high: largest value, included, and above `low`.

    Raises:
        UsageError: for bounds that are not positive or not in this order.
    """

    low: int
    high: int
    kind: ClassVar[type] = int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(self)

    def _drawn(self, generator: np.random.Generator) -> Any:
        return math.floor(_log_uniform(generator, self.low, self.high + 1))


@spec("choice")
@checked
@dataclass(frozen=True)
class Choice:
    """Uniform choice among values.

    Args:
        values: values, at least one: anything that a spec can hold, such as two steppers.

    Raises:
        UsageError: for no values.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("a Choice needs at least one value, got none")

    @property
    def extremes(self) -> tuple[Any, ...]:
        """All values."""
        return tuple(self.values)

    def value(self, drawn: Any) -> Any:
        """Convert a drawn value to the value of the field.

        Args:
            drawn: index of the value.

        Returns:
            Value.
        """
        # Searchers draw the index: a value may be a spec, and they take plain numbers and texts only.
        return self.values[int(drawn)]

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)

    def draw(self, generator: np.random.Generator) -> int:
        """Draw at random.

        Args:
            generator: source of the draw.

        Returns:
            Index of a value.
        """
        return int(generator.choice(np.arange(len(self.values))))


Domain = Uniform | LogUniform | Integers | LogIntegers | Choice


def with_fields(spec: Any, values: Mapping[str, Any]) -> Any:
    """Copy a spec with other values in some fields.

    Args:
        spec: spec.
        values: new values by dotted name, such as "radius.tolerance"; items of tuples are named by their index from 0.

    Returns:
        Copy.

    Raises:
        UsageError: for an unknown name, with the valid ones, and for values that the spec does not allow.
    """
    for name, value in values.items():
        spec = _with(spec, spec, name, name.split("."), value)
    return spec


def check(spec: Any, space: Mapping[str, Domain]) -> None:
    """Check that a search space fits a spec.

    The extremes of each field must be valid with the spec's own values in all other fields.

    Args:
        spec: spec whose fields are searched.
        space: domains by dotted name.

    Raises:
        UsageError: for an unknown field, a field within another searched one, and a domain with invalid values.
    """
    for name, domain in space.items():
        if within := [other for other in space if name.startswith(f"{other}.")]:
            raise UsageError(f"{name} is a part of {within[0]}, which is searched too: search only one of them")
        if isinstance(domain, (Uniform, LogUniform)) and _type_of(spec, name) is int:
            raise UsageError(f"{name} must be an integer: give Integers or a Choice, not {domain}")
        # Valid ranges of fields are intervals, so a domain is valid where its extremes are.
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
    return replace(part, **{first: new})  # runs the checks of the class on the new value


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
    # Items of tuples have no annotation of their own.
    return None if isinstance(spec, tuple) else get_type_hints(type(spec)).get(last)


def _check_positive(domain: LogUniform | LogIntegers) -> None:
    if not domain.low > 0:
        raise UsageError(f"{type(domain).__name__} needs low > 0, got low={domain.low}")


def _log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(generator.uniform(np.log(low), np.log(high))))
