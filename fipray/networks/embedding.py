"""Protocols of output geometries, which embed a network's outputs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class OutputGeometry(Protocol):
    """Embedding of outputs, between which Euclidean distance is functional distance."""

    def embed(self, outputs: Tensor) -> Tensor:
        """Embed outputs; differentiable.

        Args:
            outputs: [N, C] (or [N, C, ...]).

        Returns:
            Embedded outputs [N, C'].
        """
        ...


@runtime_checkable
class ChecksOutputs(Protocol):
    """An output geometry that does not suit all outputs."""

    def check(self, outputs: Tensor) -> None:
        """Check that outputs suit the geometry.

        Args:
            outputs: [N, C] (or [N, C, ...]): some at a network's own weights, and some at weights that have moved, also
                far and to negative multiples.

        Raises:
            NetworkError: if they do not, such as probabilities where logits are expected.
        """
        ...
