"""What stands behind a network's outputs, as autograd sees it: every parameter that moves, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fipray.errors import NetworkError
from fipray.geometry.forward import NUM_INPUTS, agree, half_hint, kind_of, tried
from fipray.geometry.modules import described, listed, tensors_beside

if TYPE_CHECKING:
    from fipray.geometry.network import Network

_MANY_INPUTS = 1024  # on which a weight may still show that it matters


def check_gradients(network: Network, inputs: Tensor, weights: Tensor, leaves: dict[str, Tensor], told: Tensor) -> None:
    kind = kind_of(network)
    if foreign := _foreign(network, leaves, told):
        raise NetworkError(
            f"{kind} computes with {listed(foreign)}, which its parameters do not name: register it (nn.Parameter as "
            "an attribute, nn.ModuleList, nn.ParameterList), or, if it is a constant, detach it (requires_grad=False)"
        )
    unused = _unused(network, leaves, told)
    for some in inputs[NUM_INPUTS:_MANY_INPUTS].split(NUM_INPUTS):
        if not unused:
            return
        with torch.enable_grad():
            unused &= _unused(network, leaves, network.evaluated(leaves, some))
    names = [slot.name for slot in network.moving if slot.name in unused and slot.shape.numel()]
    if not names:
        return
    if not agree(
        network, tried(network, network.weights, inputs[:NUM_INPUTS]), _without(network, inputs, weights, names)
    ):
        raise NetworkError(
            f"the outputs of {kind} change with {listed(names)}, but autograd does not see it: a detach(), no_grad(), "
            "rounding or numpy in forward is in the way; take it out, or leave these parameters out of what moves: "
            "freeze them (requires_grad_(False)), or name the others with moving="
        )
    others = patterns if len(patterns := _others(network, names)) <= 8 else "[...]"
    raise NetworkError(
        f"no output of {kind} depends on {listed(names)} on these inputs (an unused head or layer), so nothing would "
        f"hold them: freeze them (requires_grad_(False)), or name the parameters that move with moving={others}"
    )


def _without(network: Network, inputs: Tensor, weights: Tensor, names: Sequence[str]) -> Tensor:
    """Outputs where these parameters alone have moved."""
    mixed = network.weights.clone()
    for slot in network.slots:
        if slot.name in names:
            mixed[slot.start : slot.stop] = weights[slot.start : slot.stop]
    return tried(network, mixed, inputs[:NUM_INPUTS])


def _others(network: Network, names: Sequence[str]) -> list[str]:
    """Patterns that fit all other parameters, as short as the names of the module's children allow."""
    mixed = {name.partition(".")[0] for name in names}
    others = [slot.name for slot in network.slots if slot.name not in names]
    short = [name if name.partition(".")[0] in mixed or "." not in name else _family(name) for name in others]
    return list(dict.fromkeys(short))


def _family(name: str) -> str:
    return name.partition(".")[0] + ".*"


def _unused(network: Network, leaves: dict[str, Tensor], outputs: Tensor) -> set[str]:
    """The names of leaves that autograd does not find behind the outputs."""
    if not outputs.requires_grad:
        return set(leaves)
    try:
        found = torch.autograd.grad(outputs, list(leaves.values()), torch.ones_like(outputs), allow_unused=True)
    except RuntimeError as error:
        raise NetworkError(
            f"{kind_of(network)} has no gradient by its weights: {error}{half_hint(error, outputs)}"
        ) from error
    return {name for name, gradient in zip(leaves, found, strict=True) if _is_missing(gradient)}


def _is_missing(gradient: Tensor | None) -> bool:
    return gradient is None


def _foreign(network: Network, leaves: dict[str, Tensor], outputs: Tensor) -> list[str]:
    """Tensors that require gradients and stand behind the outputs, but are no parameters, for people."""
    own, found = {id(leaf) for leaf in leaves.values()}, list[Tensor]()
    seen, ahead = set(), [outputs.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor) and id(variable) not in own:
            found.append(variable)
        ahead += [following for following, _ in node.next_functions]
    held = {
        id(tensor): f"a tensor in {attribute!r} of {described(name, part)}"
        for name, part in network.parts()
        for attribute, tensor in tensors_beside(part)
    }
    elsewhere = "a tensor {} of a closure or another module"
    return list(dict.fromkeys(held.get(id(one), elsewhere.format(list(one.shape))) for one in found))
