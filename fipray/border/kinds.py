"""Kinds of numbers that several floors ask for."""

from typing import Annotated, TypeAlias

from beartype.vale import Is

Seed: TypeAlias = Annotated[int, Is[lambda seed: 0 <= seed < 2**63]]
