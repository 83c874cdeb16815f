"""Annotations of numbers that several floors use."""

from typing import Annotated, TypeAlias

from beartype.vale import Is

# Generators of torch take seeds of 64 bits, and Parquet stores them as signed integers.
Seed: TypeAlias = Annotated[int, Is[lambda seed: 0 <= seed < 2**63]]
