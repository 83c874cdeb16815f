"""Embedded outputs of the start that are computed for each batch, where those on all anchors are not kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.geometry import OutputGeometry
from fipray.networks import Deferred, Network

KEPT_BYTES = 2**28  # outputs on anchors that take more are not kept
KEPT_ANCHORS = 2**17  # nor are those on more anchors: a path draws fewer, so a pass over all would cost more


@dataclass(frozen=True, eq=False)
class StartOutputs:
    """Embedded outputs of the start by the index of an anchor: a `Readable`.

    Args:
        network: network at the weights of the start.
        geometry: embedding of the outputs.
        inputs: anchors [N, ...] that are read by reference.
        num_columns: C of the embedded outputs [N, C].
        dtype: dtype of them.
    """

    network: Network
    geometry: OutputGeometry
    inputs: Deferred
    num_columns: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape [N, C]."""
        return len(self.inputs), self.num_columns

    @property
    def is_fresh(self) -> bool:
        """Whether the anchors are transformed anew in each draw."""
        return self.inputs.source.is_fresh

    def of(self, inputs: Tensor) -> Tensor:
        """Embedded outputs [M, C] on inputs [M, ...] that have been read already.

        Args:
            inputs: anchors.

        Returns:
            Their embedded outputs.
        """
        return self.geometry.embed(self.network.outputs(self.network.weights, inputs))

    def read(self, indices: Tensor, seed: int) -> Tensor:
        """See `Readable`."""
        return self.of(self.inputs.read(indices, seed)).cpu()


def kept_outputs(network: Network, geometry: OutputGeometry, inputs: Tensor, *, drawn: bool) -> Tensor:
    """Embedded outputs [N, C] of the start.

    Args:
        network: network at the weights of the start.
        geometry: embedding of the outputs.
        inputs: inputs [N, ...].
        drawn: whether batches are drawn from them. If so, outputs on deferred inputs are computed for each draw where
            those on all of them are too many, and where inputs are transformed anew in each draw.

    Returns:
        The outputs, or deferred ones.
    """
    if drawn and isinstance(inputs, Deferred):
        few = geometry.embed(network.outputs(network.weights, inputs[:2]))
        if few.ndim != 2:
            return few
        num_bytes = len(inputs) * few[:1].nbytes
        if inputs.source.is_fresh or len(inputs) > KEPT_ANCHORS or num_bytes > KEPT_BYTES:
            return Deferred(StartOutputs(network, geometry, inputs, few.shape[1], few.dtype), inputs.device)
    return geometry.embed(network.outputs(network.weights, inputs))
