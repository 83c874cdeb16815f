"""Protocols of output geometries: embeddings of a network's outputs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class OutputGeometry(Protocol):
    """Embeds outputs so that the squared distance of two embeddings is the cost of confusing them."""

    def embed(self, outputs: Tensor) -> Tensor:
        """Outputs [N, C] (or [N, C, ...]) to embedded outputs [N, C']; differentiable."""
        ...


@runtime_checkable
class ChecksOutputs(Protocol):
    """An output geometry that is not for all outputs."""

    def check(self, outputs: Tensor) -> None:
        """Raise NetworkError for outputs [N, C] (or [N, C, ...]) that it is not for: some at a network's own weights,
        and some where its weights have moved, also far and to the other side.
        """
        ...
