"""Parsing of parameters of study functions."""

# ruff: noqa: B006

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

import fipray as fip
from fipray.study import reference
from fipray.study.parameters import call

if TYPE_CHECKING:
    from collections.abc import Sequence


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


def bare(
    members=2, scale=1.0, fast=False, name="a", sizes=(3, 4), mixed=(1, "a"), rates=[0.5], pairs=(), nothing=None
): ...


def dependencies(something): ...


def hinted(
    *,
    names: Sequence[str] = ("a",),
    members: int = 2,
    sizes: tuple[int, ...] = (),
    pair: tuple[int, str] = (1, "a"),
    grid: tuple[tuple[int, int], ...] = (),
    rates: list[float] = [],
    few: set[int] = set(),
    epsilon: float = 0.1,
    kind: Literal["a", "b", 3, True, None] = "a",
    colour: Colour = Colour.RED,
    limit: float | None = None,
    either: int | float | str = 0,
    weights: dict[str, float] = {},
    anything: Any = 1.5,
    some: tuple = (1.0,),
    text: str = "",
    fraction: Annotated[float, "0..1"] = 0.5,
    network: fip.Network | None = None,
): ...


def by_place(first: int, second=2, /, third=3.0, *rest: int, fourth: int = 4, **others: float):
    return first, second, third, rest, fourth, others


def unannotated(**others): ...


@pytest.mark.parametrize(
    ("function", "text", "value"),
    [
        (bare, "members=3", 3),
        (bare, "scale=2", 2.0),
        (bare, "scale=8/255", 8 / 255),
        (bare, "fast=yes", True),
        (bare, "name=3", "3"),
        (bare, "sizes=5,6,7", (5, 6, 7)),
        (bare, "mixed=2,b", (2, "b")),
        (bare, "rates=1/2,1e-3", [0.5, 1e-3]),
        (hinted, "names=a,b", ("a", "b")),
        (hinted, "members=3", 3),
        (hinted, "sizes=3,4", (3, 4)),
        (hinted, "sizes=[3, 4]", (3, 4)),
        (hinted, "sizes=(3,4)", (3, 4)),
        (hinted, "sizes=3", (3,)),
        (hinted, "sizes=(3,)", (3,)),
        (hinted, "sizes=", ()),
        (hinted, "sizes=()", ()),
        (hinted, "pair=3,'a,b'", (3, "a,b")),
        (hinted, "grid=(1,2),(3,4)", ((1, 2), (3, 4))),
        (hinted, "grid=[[1,2]]", ((1, 2),)),
        (hinted, "rates=8/255,1e-3,inf", [8 / 255, 1e-3, float("inf")]),
        (hinted, "few=1,2,1", {1, 2}),
        (hinted, "epsilon= 8 / 255", 8 / 255),
        (hinted, "kind=b", "b"),
        (hinted, "kind=3", 3),
        (hinted, "kind=true", True),
        (hinted, "kind=none", None),
        (hinted, "colour=BLUE", Colour.BLUE),
        (hinted, "colour=blue", Colour.BLUE),
        (hinted, "colour=1", Colour.RED),
        (hinted, "limit=none", None),
        (hinted, "limit=1/4", 0.25),
        (hinted, "either=3", 3),
        (hinted, "either=0.5", 0.5),
        (hinted, "either=none", "none"),
        (hinted, "weights={a: 1/2, b: 2}", {"a": 0.5, "b": 2.0}),
        (hinted, "anything=2", 2.0),
        (hinted, "some=2,3", (2.0, 3.0)),
        (hinted, "text=don't, a=b", "don't, a=b"),
        (hinted, "fraction=1/3", 1 / 3),
        (hinted, "network=none", None),
        (by_place, "fourth=5", 5),
        (by_place, "extra=8/2", 4.0),
    ],
)
def test_a_text_means_a_value_of_the_annotated_type_or_else_of_the_defaults(function, text, value):
    needed = ["first=1"] if function is by_place else []
    found = reference.parse(function, [*needed, text])[text.partition("=")[0]]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("function", "text", "sentence"),
    [
        (dependencies, "something=1", "the type of parameter 'something' is unknown"),
        (bare, "nothing=1", "the type of parameter 'nothing' is unknown"),
        (bare, "pairs=1,2", "the type of parameter 'pairs' is unknown"),
        (bare, "members=2.5", "members='2.5'"),
        (hinted, "sizes=3,x", "sizes='3,x'"),
        (hinted, "sizes=[3,4", "brackets and quotes should come in pairs"),
        (hinted, "pair=1", "it should have 2 items, but has 1"),
        (hinted, "epsilon=8/0", "such as 0.03, 3e-2 or 8/255"),
        (hinted, "epsilon=nan", "not NaN"),
        (hinted, "kind=c", "'a' or 'b' or '3' or 'True' or 'None'"),
        (hinted, "colour=green", "'1' or 'blue' or 'RED' or 'BLUE'"),
        (hinted, "limit=much", "or none"),
        (hinted, "network=3", "a Network cannot be given as text"),
        (hinted, "weights=a", "pairs such as a:1,b:2"),
        (hinted, "=3", "must be given as name=value"),
        (unannotated, "rest=3", "annotate"),
    ],
)
def test_a_text_without_meaning_is_refused_with_a_sentence(function, text, sentence):
    with pytest.raises(fip.errors.UsageError) as refused:
        reference.parse(function, [text])
    assert sentence in str(refused.value)


def test_arguments_without_names_are_given_by_their_place():
    values = reference.parse(by_place, ["first=1", "fourth=5", "extra=2"])
    assert call(by_place, values) == (1, 2, 3.0, (), 5, {"extra": 2.0})
    assert call(by_place, {"first": 1, "second": 7}) == (1, 7, 3.0, (), 4, {})
