"""Usefulness of an output geometry for a network: it embeds the outputs and tells different ones apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor

from fipray.errors import FiprayError, NetworkError, UsageError
from fipray.networks.checks.passes import constant, kind_of, tried
from fipray.networks.embedding import ChecksOutputs, OutputGeometry
from fipray.networks.functional_module import FunctionalModule


def check_geometry(
    network: FunctionalModule,
    geometry: OutputGeometry,
    inputs: Tensor,
    weights: Tensor,
    first: Tensor,
    outputs: Tensor,
) -> None:
    """Check that functional distances of the network mean something.

    Args:
        network: the network.
        geometry: the output geometry.
        inputs: [N, ...].
        weights: [P], all of which differ from the network's own.
        first: outputs [N, ...] at the network's own weights.
        outputs: outputs [N, ...] at `weights`.

    Raises:
        NetworkError: if outputs do not depend on the weights, if the geometry does not suit them (its own `check`), or
            if it gives different outputs the same embedding.
        UsageError: if the geometry cannot embed outputs of this shape.
    """
    name, far = type(geometry).__name__, list(_outputs_far_away(network, weights, inputs))
    # On inputs that are all zero, outputs of layers without bias are the same at any weights, which is no fault.
    if bool(inputs.any()) and all(torch.equal(first, other) for other in (outputs, *far)):
        raise constant(network)
    if isinstance(geometry, ChecksOutputs):
        rows = torch.cat([first, outputs, *far])
        geometry.check(rows[torch.isfinite(rows).flatten(1).all(1)])
    try:
        one, other = geometry.embed(first), geometry.embed(outputs)
    except FiprayError:
        raise
    except Exception as error:  # a geometry may be a user's own code
        raise UsageError(
            f"{name} cannot embed outputs of shape {tuple(first.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not torch.equal(first, outputs) and torch.equal(one, other):
        raise NetworkError(
            f"{name} gives different outputs of {kind_of(network)} the same embedding, so every network would be at "
            "functional distance 0: outputs are the same for all classes, or so confident that rounding leaves no "
            "difference. Use another geometry, such as Euclidean()"
        )


def _outputs_far_away(network: FunctionalModule, weights: Tensor, inputs: Tensor) -> Iterator[Tensor]:
    """Evaluate the network at much larger weights of either sign, where its forward allows it."""
    # Outputs that stay in 0..1 or keep their sign even there are bounded by construction, not by chance.
    for factor in (8, -8):
        with suppress(UsageError):
            yield tried(network, factor * weights, inputs)
