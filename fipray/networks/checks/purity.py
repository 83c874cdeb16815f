"""Purity of the forward pass: outputs depend on the given weights and on each input by itself, and nothing is kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fipray.errors import FiprayError, NetworkError
from fipray.networks.checks.differences import Place
from fipray.networks.checks.passes import agree, half_hint, kind_of, leaves_of, moved, tried, where
from fipray.networks.checks.randomness import check_draws, refusal
from fipray.networks.checks.zeroing import Zeroing
from fipray.networks.compute import is_out_of_memory
from fipray.networks.frozen import fingerprint
from fipray.networks.functional_module import FunctionalModule
from fipray.networks.modules import described, tensors_beside
from fipray.networks.parameters import listed

# Relative differences allowed between rows of batches of different sizes, for which kernels sum in another order.
# Modules in double precision may still compute parts in single.
_ROWS = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.05}
# Lengths by which weights move, in units of their parameter's root mean square: the first at which outputs are finite.
_SCALES = (0.3, 0.03, 0.003)


def perturbed(network: FunctionalModule, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Move all weights at random, as far as outputs stay finite.

    Args:
        network: the network.
        inputs: [N, ...].

    Returns:
        The weights [P]; copies of their parameters by name, leaves for autograd; and the outputs [N, ...] there, with
        their graph down to these leaves.

    Raises:
        NetworkError: if autograd cannot follow the forward, or the forward writes into its parameters.
    """
    for scale in _SCALES:
        weights = moved(network, scale)
        leaves = leaves_of(network, weights)
        try:
            with torch.enable_grad():
                outputs = network.evaluated(leaves, inputs)
        except FiprayError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise NetworkError(
                f"autograd cannot follow the forward of {kind_of(network)} from its weights to its outputs, which "
                f"every step needs: {where(network, error)}{type(error).__name__}: {error}{half_hint(error, inputs)}"
            ) from error
        if bool(torch.isfinite(outputs).all()):
            break
    changed = [name for name, part in network.named(weights).items() if not torch.equal(part, leaves[name])]
    if changed:
        raise NetworkError(
            f"the forward of {kind_of(network)} writes into its own parameters {listed(changed)}, so it is not a pure "
            "function of them: compute the new values without changing the parameters, such as weight.clamp(...)"
        )
    return weights, leaves, outputs


def load(network: FunctionalModule, module: nn.Module, weights: Tensor) -> None:
    """Write weights into a copy of the module.

    Args:
        network: the network.
        module: a copy made by `module_at`; changed in place.
        weights: [P].
    """
    values = network.named(weights)
    for name, parameter in module.named_parameters():
        if name in values:
            # By .data, as autograd refuses in-place writes to leaves that require gradients.
            parameter.data.copy_(values[name])


@torch.no_grad()
def check_passes(network: FunctionalModule, module: nn.Module, inputs: Tensor, weights: Tensor, first: Tensor) -> None:
    """Check that forward passes are repeatable, keep nothing, and use the given weights only.

    Args:
        network: the network; its `zeroed` is filled.
        module: a copy of its module at `weights` in which no pass has left anything.
        inputs: [N, ...].
        weights: [P], all of which differ from the network's own.
        first: outputs [N, ...] of a first pass at the network's own weights.

    Raises:
        NetworkError: naming the buffer, parameter or part at fault.
    """
    network.outputs_at(module, inputs)  # values that a module computes once, such as tables, are computed here
    before = _kept(network, module)
    plain = network.outputs_at(module, inputs)
    written = [
        name for name, value in _kept(network, module).items() if name in before and _differ(value, before[name])
    ]
    last = check_draws(network, inputs)
    if written:
        raise NetworkError(
            f"the forward of {kind_of(network)} writes into {listed(written)}, so it is not a pure function of its "
            "weights: call module.eval() first, or let it keep nothing (of fake quantisation, disable the observers)"
        )
    if not (agree(network, first, last) and agree(network, plain, network.outputs_at(module, inputs))):
        raise refusal(network, "")
    watching = network.origin.watched({slot.name for slot in network.slots})
    with watching, Zeroing(network.named(weights)) as zeroing:
        # Without a graph, as for `plain`: some layers, such as attention, use faster kernels then.
        outputs = tried(network, weights, inputs)
    if watching.found:
        raise NetworkError(
            f"the forward of {kind_of(network)} uses {listed(list(watching.found))} of the module that was given, and "
            "not of its copy, in which weights move: a function that it calls, such as a hook, refers to the original "
            "through a closure, a global name, a default or a weak reference; use self, or the module that the hook "
            "receives"
        )
    network.zeroed.update(zeroing.found)
    effect = float(torch.nan_to_num(outputs - first).abs().max())
    if not agree(network, outputs, plain, effect):
        names = _reached_otherwise(network, inputs)
        raise NetworkError(
            f"{kind_of(network)} uses {listed(names) or 'a parameter'} by another way than as its parameter"
            f"{_holders(network, names)}, which weights that move do not reach: use the parameter itself in forward, "
            "and keep no other reference to it or copy of it"
        )


def _kept(network: FunctionalModule, module: nn.Module) -> dict[str, Tensor | int]:
    """Copy the tensors in a module's state; of parameters outside of the vector, compute fingerprints."""
    outside = {id(module.get_parameter(name)) for name, _ in network.outside()}
    state = module.state_dict(keep_vars=True)  # else detached, other objects than the parameters
    return {
        name: fingerprint(tensor) if id(tensor) in outside else tensor.detach().clone()
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def _differ(one: Tensor | int, other: Tensor | int) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        # NaN is not equal to itself, so a buffer that holds one would seem to be written.
        return not torch.equal(one, other) and not bool(one.isnan().any())
    return bool(one != other)


def _reached_otherwise(network: FunctionalModule, inputs: Tensor) -> list[str]:
    """Names of slots whose values give other outputs by `functional_call` than in the module's own parameters."""
    weights, _, _ = perturbed(network, inputs)
    module, found = network.module_at(network.weights, share_frozen=True), []
    for slot in network.slots:
        mixed = network.weights.clone()
        mixed[slot.start : slot.stop] = weights[slot.start : slot.stop]
        load(network, module, mixed)
        own, plain = network(mixed, inputs), network.outputs_at(module, inputs)
        effect = float((own - network(network.weights, inputs)).abs().max())
        if not agree(network, own, plain, effect):
            found.append(slot.name)
    return found


def _holders(network: FunctionalModule, names: Sequence[str]) -> str:
    """Attributes that hold these parameters besides their own place, in brackets for an error message."""
    wanted = {id(p) for name, p in dict(network.parts())[""].named_parameters() if name in names}
    found = [
        f"{attribute!r} of {described(name, part)}"
        for name, part in network.parts()
        for attribute, tensor in tensors_beside(part)
        if id(tensor) in wanted
    ]
    return f" (held in {listed(list(dict.fromkeys(found)))})" if found else ""


def check_rows(place: Place) -> None:
    """Check that each output depends on its own input only, by evaluating the last two inputs alone.

    Args:
        place: a network with weights, inputs and outputs; nothing is checked on fewer than three inputs.

    Raises:
        NetworkError: if outputs depend on other inputs of the batch, or on their number.
    """
    network, inputs, outputs = place.network, place.inputs, place.outputs
    if len(inputs) < 3:
        return
    alone, expected = tried(network, place.weights, inputs[-2:]), outputs[-2:]
    if alone.shape != expected.shape:
        raise NetworkError(
            f"{len(inputs)} inputs gave outputs of shape {tuple(outputs.shape)}, and 2 inputs {tuple(alone.shape)}: a "
            "network must return rows of one shape, one for each input"
        )
    if float((alone - expected).abs().max()) > _ROWS[place.precision] * float(outputs.abs().max()):
        raise NetworkError(
            f"the outputs of {kind_of(network)} for an input depend on the other inputs of its batch (normalisation by "
            "the batch), so it is not a function of one input: use frozen statistics (module.eval(), "
            "track_running_stats=True)"
        )
