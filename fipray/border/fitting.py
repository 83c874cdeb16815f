"""Values fitted to annotations: containers item by item, everything else by beartype and jaxtyping."""

from __future__ import annotations

import collections.abc
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from types import UnionType
from typing import Annotated, Any, TextIO, Union, get_args, get_origin

import numpy as np
from beartype import BeartypeConf, FrozenDict
from beartype.door import is_bearable
from beartype.vale import Is
from jaxtyping import jaxtyped

from fipray.border.protocols import lacking, takes
from fipray.border.wording import oddity


class Misfit(Exception):
    """A value that does not fit its annotation.

    Args:
        value: the innermost such value.
        hint: the annotation that it should fit.
        place: its place within the argument, such as `[2]['a']`.
    """

    def __init__(self, value: Any, hint: Any, place: str = "") -> None:
        super().__init__(place)
        self.value, self.hint, self.place = value, hint, place

    def inside(self, place: str) -> Misfit:
        """Add the place of the container.

        Args:
            place: such as `[2]`.

        Returns:
            The misfit with this place before its own.
        """
        return Misfit(self.value, self.hint, place + self.place)


def one_scope() -> AbstractContextManager[Any]:
    """Context in which a letter in the shapes of arrays, such as N, stands for one length."""
    return jaxtyped("context")


def _is_integer(value: Any) -> bool:
    return not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and not math.isnan(float(value))
    except OverflowError:  # an integer beyond the range of floats
        return False


# beartype alone would accept booleans as integers, NaN as a setting, and integers that no int64 tensor can hold.
_NUMBERS: Any = {int: Annotated[int, Is[_is_integer]], float: Annotated[int | float, Is[_is_number]]}
_STRICT = BeartypeConf(hint_overrides=FrozenDict(_NUMBERS))


def fitted(value: Any, hint: Any) -> Any:
    """Fit a value to an annotation.

    Args:
        value: the value.
        hint: the annotation.

    Returns:
        `value`; or its conversion, where lists are given for tuples, numpy's numbers for Python's, or integers for
        floats.

    Raises:
        Misfit: if it does not fit.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _fitted_to_one(value, hint, inner)
    if origin is tuple:
        return _fitted_tuple(value, hint, inner)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _fitted_mapping(value, hint, inner)
    if origin in (Sequence, Collection):
        return _fitted_items(value, hint, origin, inner)
    # Numbers of numpy are compared as Python's: isinstance(np.float32(1), float) is false.
    plain = value.item() if isinstance(value, np.generic) and not isinstance(value, (str, bytes)) else value
    if not _fits(plain, hint, origin, inner):
        raise Misfit(value, hint)
    if hint is float:
        return float(plain)  # so that specs of equal numbers have equal IDs
    return plain if hint in (int, bool) or origin is Annotated else value


def _fits(value: Any, hint: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    if origin is collections.abc.Callable:
        takes_any = not isinstance(inner[0], list)
        return callable(value) and not isinstance(value, type) and (takes_any or takes(value, (None,) * len(inner[0])))
    if getattr(hint, "_is_protocol", False):
        return not lacking(value, hint)
    if oddity(value):
        return False
    if hint is TextIO:  # most text files are no instances of it
        return hasattr(value, "write")
    return is_bearable(value, hint, conf=_STRICT)


def _fitted_to_one(value: Any, hint: Any, inner: tuple[Any, ...]) -> Any:
    misfits = []
    for one in inner:
        try:
            return fitted(value, one)
        except Misfit as misfit:
            misfits.append(misfit)
    # A misfit inside a container is more helpful than the statement that no alternative fits.
    raise next((misfit for misfit in misfits if misfit.place), Misfit(value, hint))


def _fitted_tuple(value: Any, hint: Any, inner: tuple[Any, ...]) -> Any:
    # The fields of a named tuple have meanings of their own, which positions would lose.
    if not isinstance(value, (tuple, list)) or hasattr(value, "_fields"):
        raise Misfit(value, hint)
    if inner[-1] is not Ellipsis and len(value) != len(inner):
        raise Misfit(value, hint)
    hints = inner if inner[-1] is not Ellipsis else (inner[0],) * len(value)
    # A tuple of which nothing was converted is returned itself, so that identity and subclasses are kept.
    items = [_fitted_inside(value[place], one, f"[{place}]") for place, one in enumerate(hints)]
    return value if isinstance(value, tuple) and all(map(_is, items, value)) else tuple(items)


def _fitted_items(value: Any, hint: Any, origin: Any, inner: tuple[Any, ...]) -> Any:
    # A text is a sequence of texts for Python, but never what the annotation means.
    if not isinstance(value, origin) or isinstance(value, (str, bytes, Mapping)):
        raise Misfit(value, hint)
    items = [_fitted_inside(item, inner[0], f"[{place}]") for place, item in enumerate(value)]
    return value if all(map(_is, items, value)) else tuple(items)


def _fitted_mapping(value: Any, hint: Any, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, Mapping):
        raise Misfit(value, hint)
    items = {
        _fitted_inside(name, inner[0], f": the key {name!r:.60}"): _fitted_inside(item, inner[1], f"[{name!r:.60}]")
        for name, item in value.items()
    }
    return value if all(items[name] is value[name] for name in value) else items


def _fitted_inside(value: Any, hint: Any, place: str) -> Any:
    try:
        return fitted(value, hint)
    except Misfit as misfit:
        raise misfit.inside(place) from None


def _is(one: Any, other: Any) -> bool:
    return one is other
