"""Dependence of the outputs on the parameters, in autograd's graph: on each that moves, and on no other tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fipray.errors import NetworkError
from fipray.networks.checks.passes import NUM_INPUTS, agree, constant, half_hint, kind_of, leaves_of, moved, tried
from fipray.networks.deferred import Deferred
from fipray.networks.functional_module import FunctionalModule
from fipray.networks.modules import described, tensors_beside
from fipray.networks.parameters import listed

# A parameter without a gradient may matter for other inputs (an expert that few of them need) or at other weights (a
# layer before one that is zero at first), so it is looked for on more inputs, and at weights moved by these fractions
# of their size, before it counts as unused.
_MANY_INPUTS = 1024
_ELSEWHERE = (0.0, 0.03, 1.0, 3.0)
_ENOUGH_INPUTS = 4  # on fewer, a gradient of zero says little: a rectifier may be off on all of them


def check_gradients(
    network: FunctionalModule, inputs: Tensor, weights: Tensor, leaves: dict[str, Tensor], outputs: Tensor
) -> None:
    """Check that outputs depend on every parameter that moves, and on no unregistered tensor that requires gradients.

    Args:
        network: the network.
        inputs: [N, ...]; up to 1024 are used where a parameter seems unused.
        weights: [P], all of which differ from the network's own.
        leaves: the parameters at `weights`, by name, as leaves for autograd.
        outputs: outputs on the first inputs, with their graph down to `leaves`.

    Raises:
        NetworkError: naming the tensors or parameters at fault.
    """
    kind = kind_of(network)
    if foreign := _foreign(network, leaves, outputs):
        raise NetworkError(
            f"{kind} computes with {listed(foreign)}, which is none of its parameters: register it (nn.Parameter as "
            "an attribute, nn.ModuleList, nn.ParameterList), or, if it is a constant, detach it (requires_grad=False)"
        )
    looked_at = inputs[:NUM_INPUTS] if isinstance(inputs, Deferred) else inputs
    zero_is_none = len(inputs) >= _ENOUGH_INPUTS and bool(looked_at.any())
    unused = _unused(network, leaves, outputs, zero_is_none)
    if not _names(network, unused):
        return
    further = inputs[NUM_INPUTS:_MANY_INPUTS]
    # An empty tensor splits into one empty batch, which transformers do not take.
    for more in further.split(NUM_INPUTS) if len(further) else ():
        if not _names(network, unused):
            return
        with torch.enable_grad():
            unused &= _unused(network, leaves, network.evaluated(leaves, more), zero_is_none)
    for number, scale in enumerate(_ELSEWHERE):
        if not _names(network, unused):
            return
        elsewhere = leaves_of(network, moved(network, scale, seed=number + 1))
        with torch.enable_grad():
            outputs = network.evaluated(elsewhere, inputs[:NUM_INPUTS])
        if bool(torch.isfinite(outputs).all()):
            unused &= _unused(network, elsewhere, outputs, zero_is_none)
    if not (names := _names(network, unused)):
        return
    if not agree(
        network, tried(network, network.weights, inputs[:NUM_INPUTS]), _without(network, inputs, weights, names)
    ):
        raise NetworkError(
            f"the outputs of {kind} change with {listed(names)}, but autograd does not see it: a detach(), no_grad(), "
            "rounding, numpy or activation checkpointing in forward hides it; remove it, or do not let these "
            "parameters move: freeze them (requires_grad_(False)), or name the others with moving="
        )
    if not (patterns := _others(network, names)):
        raise constant(network)
    others = patterns if len(patterns) <= 8 else "[...]"
    raise NetworkError(
        f"no output of {kind} depends on {listed(names)} on these inputs (an unused head or layer), so they would "
        f"move freely: freeze them (requires_grad_(False)), or name the parameters that may move with moving={others}"
    )


def _names(network: FunctionalModule, unused: set[str]) -> list[str]:
    return [slot.name for slot in network.moving if slot.name in unused and slot.shape.numel()]


def _without(network: FunctionalModule, inputs: Tensor, weights: Tensor, names: Sequence[str]) -> Tensor:
    """Evaluate the network where only these parameters have moved."""
    mixed = network.weights.clone()
    for slot in network.slots:
        if slot.name in names:
            mixed[slot.start : slot.stop] = weights[slot.start : slot.stop]
    return tried(network, mixed, inputs[:NUM_INPUTS])


def _others(network: FunctionalModule, names: Sequence[str]) -> list[str]:
    """Patterns that match all other parameters, as short as the names of the module's children allow."""
    mixed = {name.partition(".")[0] for name in names}
    others = [slot.name for slot in network.slots if slot.name not in names]
    short = [name if name.partition(".")[0] in mixed or "." not in name else _family(name) for name in others]
    return list(dict.fromkeys(short))


def _family(name: str) -> str:
    return name.partition(".")[0] + ".*"


def _unused(network: FunctionalModule, leaves: dict[str, Tensor], outputs: Tensor, zero_is_none: bool) -> set[str]:
    """Names of leaves that are not in the outputs' graph, or whose gradient is zero throughout if `zero_is_none`."""
    if not outputs.requires_grad:
        return set(leaves)
    # A weighted sum with random weights: a plain sum may be constant, as that of probabilities is.
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(outputs.shape, generator=generator, device="cpu").to(outputs)
    try:
        found: Sequence[Tensor | None] = torch.autograd.grad(outputs, list(leaves.values()), mixed, allow_unused=True)
    except RuntimeError as error:
        if "torch.utils.checkpoint" in str(error):
            raise _checkpointed(network) from error
        raise NetworkError(
            f"{kind_of(network)} has no gradient by its weights: {error}{half_hint(error, outputs)}"
        ) from error
    return {
        name
        for name, gradient in zip(leaves, found, strict=True)
        if gradient is None or (zero_is_none and not bool(gradient.any()))
    }


def _checkpointed(network: FunctionalModule) -> NetworkError:
    return NetworkError(
        f"the forward of {kind_of(network)} uses activation checkpointing (torch.utils.checkpoint), which recomputes "
        "with the module's own parameters and not with those that move: switch it off, as with "
        "gradient_checkpointing_disable() or set_grad_checkpointing(False)"
    )


def _foreign(network: FunctionalModule, leaves: dict[str, Tensor], outputs: Tensor) -> list[str]:
    """Descriptions of tensors in the outputs' graph that require gradients but are not among the leaves."""
    # The nodes at the ends of the graph (AccumulateGrad) hold the tensors that require gradients as `variable`.
    # By id: torch returns the same Python object for a tensor as long as that exists, and `leaves` holds them.
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
