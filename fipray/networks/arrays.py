"""Kinds of tensors that arguments are, with dtypes and shapes that are checked where they are annotated.

`_` is any length; a letter is the same length wherever it stands among the arguments of one call.
"""
# ruff: noqa: F722, F821  (shapes are no names)

from typing import TypeAlias

from jaxtyping import Float, Int64, Shaped
from torch import Tensor

Inputs: TypeAlias = Shaped[Tensor, "_ ..."]
Weights: TypeAlias = Float[Tensor, " P"]
Stack: TypeAlias = Float[Tensor, "M P"]
AnyWeights: TypeAlias = Float[Tensor, "..."]  # of a length that the network looks at
Labels: TypeAlias = Int64[Tensor, "_"]
Square: TypeAlias = Float[Tensor, "K K"]
Scores: TypeAlias = Float[Tensor, "_"]
Embedded: TypeAlias = Float[Tensor, "N C"]
Outputs: TypeAlias = Float[Tensor, "_ C"]
