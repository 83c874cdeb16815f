"""Annotations of tensors by dtype and shape, enforced by `fipray.border.checked`.

`_` is any length; a letter is one length throughout the arguments of a call.
"""
# ruff: noqa: F722, F821  (shapes are not names)

from typing import TypeAlias

from jaxtyping import Float, Int64, Shaped
from torch import Tensor

Inputs: TypeAlias = Shaped[Tensor, "_ ..."]
Weights: TypeAlias = Float[Tensor, " P"]
Stack: TypeAlias = Float[Tensor, "M P"]
AnyWeights: TypeAlias = Float[Tensor, "..."]  # the network itself checks the length, with a better message
Labels: TypeAlias = Int64[Tensor, "_"]
Square: TypeAlias = Float[Tensor, "K K"]
Scores: TypeAlias = Float[Tensor, "_"]
Embedded: TypeAlias = Float[Tensor, "N C"]
Outputs: TypeAlias = Float[Tensor, "_ C"]
