"""Whether a module is what a path needs: a function of its weights, by one way alone, whose outputs mean something."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fipray.errors import DataError, FiprayError, NetworkError, UsageError
from fipray.networks.checks.dependence import check_gradients
from fipray.networks.checks.differences import Place, check_differences
from fipray.networks.checks.passes import (
    NUM_INPUTS,
    agree,
    constant,
    half_hint,
    kind_of,
    leaves_of,
    moved,
    tried,
    where,
)
from fipray.networks.checks.randomness import check_draws, kept_randomness, refusal
from fipray.networks.checks.zeroing import Zeroing
from fipray.networks.embedding import ChecksOutputs, OutputGeometry
from fipray.networks.modules import described, listed, tensors_beside

if TYPE_CHECKING:
    from fipray.networks.network import Network

# By how much rows may differ with the size of a batch, for which kernels add up in another order. Modules that are in
# double precision may still compute parts in single.
_ROWS = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.05}
_SCALES = (0.3, 0.03, 0.003)  # of a slot's root mean square, by which weights are moved


def check(network: Network, inputs: Tensor, geometry: OutputGeometry | None) -> None:
    """Raise unless, on `inputs` [N, ...],

    - the module takes them and gives one finite row of real numbers for each, whatever else is in the batch;
    - outputs at w0, at weights w1 all of which have moved, and at w0 again are functions of these alone: the same
      twice, whatever random numbers are drawn, and at w1 those of `module_at(w1)`, which writes into no parameter or
      buffer of its own and reaches none of the module that was given;
    - every parameter that moves matters for the outputs, as much as autograd says, and no other tensor that it sees;
    - the output geometry takes them and tells outputs at w0 and w1 apart.

    Costs a dozen and a half forward passes and two backward passes on a few inputs, once for inputs of one shape; more
    where something looks wrong.
    """
    _check_inputs(inputs)
    _check_modes(network, inputs)
    few = inputs[:NUM_INPUTS]
    key = (inputs.shape[1:], inputs.dtype, inputs.device, tuple(slot.name for slot in network.moving))
    is_new = key not in network.checked
    module = network.module_at(network.weights) if is_new else None  # a copy that no pass has left anything in
    with kept_randomness(network):
        first = tried(network, network.weights, few)
        _check_outputs(first, len(few))
        if module is None and (geometry is None or (key, geometry) in network.checked):
            return
        weights, leaves, told = _moved(network, few)
        if module is not None:
            _put(network, module, weights)
            _check_passes(network, module, few, weights, first)
            check_gradients(network, inputs, weights, leaves, told)
            place = Place(network, weights, few, told.detach()).in_double()
            _check_rows(place)
            check_differences(place)
            network.checked.add(key)
        if geometry is not None:
            _check_geometry(network, geometry, few, weights, first, told.detach())
            network.checked.add((key, geometry))


def _check_inputs(inputs: Tensor) -> None:
    if not isinstance(inputs, Tensor):
        raise DataError(
            f"inputs are one tensor [N, ...]; a {type(inputs).__name__} was given. Where a module takes several, wrap "
            "it in one whose forward takes them apart"
        )
    if inputs.ndim == 0 or len(inputs) == 0:
        raise DataError("there are no inputs: at least one is needed")
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        bad = int((~torch.isfinite(inputs)).flatten(1).any(1).sum())
        raise DataError(f"{bad} of {len(inputs)} inputs hold NaN or infinity: remove or repair them")


def _check_modes(network: Network, inputs: Tensor) -> None:
    """Raise UsageError or DataError in modes of torch in which nothing can be differentiated or drawn."""
    if torch.is_inference_mode_enabled():
        raise UsageError(
            "torch.inference_mode is on, and there are no gradients in it, which every step needs: call this outside "
            "of it, with a module and inputs made outside"
        )
    parts = [parameter for _, part in network.parts() for parameter in part.parameters(recurse=False)]
    if any(tensor.is_inference() for tensor in (network.weights, *parts)):
        raise UsageError(
            f"the weights of {kind_of(network)} were made in torch.inference_mode, so autograd refuses them: call "
            "Network.of outside of it"
        )
    if inputs.is_inference():
        raise DataError(
            "the inputs were made in torch.inference_mode, so autograd refuses them: give inputs.clone(), made outside "
            "of it"
        )
    if (default := torch.get_default_device()).type != "cpu":
        raise UsageError(
            f"torch's default device is {default}, and random numbers are drawn on the CPU, the same everywhere: call "
            "torch.set_default_device('cpu'), and move module and inputs with .to(device)"
        )


def _check_outputs(outputs: Tensor, num_inputs: int) -> None:
    if outputs.ndim < 2 or len(outputs) != num_inputs or not outputs.numel():
        raise NetworkError(
            f"a network gives one row of outputs for each input, [N, C]; {num_inputs} inputs gave "
            f"{tuple(outputs.shape)}"
        )
    if not outputs.is_floating_point():
        raise NetworkError(
            f"the outputs are {outputs.dtype}, and a network gives real numbers that change with its weights, such as "
            "logits: leave out what comes after them (argmax, rounding, a complex transform)"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise NetworkError("the network's outputs hold NaN or infinity on finite inputs: its weights are broken")


def _moved(network: Network, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Weights [P] all of which have moved, as far as outputs stay finite, the same as leaves by name, and the outputs
    [N, ...] there with their graph.
    """
    for scale in _SCALES:
        weights = moved(network, scale)
        leaves = leaves_of(network, weights)
        try:
            with torch.enable_grad():
                told = network.evaluated(leaves, inputs)
        except (FiprayError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise NetworkError(
                f"autograd cannot follow the forward of {kind_of(network)} from its weights to its outputs, which "
                f"every step needs: {where(network, error)}{type(error).__name__}: {error}{half_hint(error, inputs)}"
            ) from error
        if bool(torch.isfinite(told).all()):
            break
    changed = [name for name, part in network.named(weights).items() if not torch.equal(part, leaves[name])]
    if changed:
        raise NetworkError(
            f"the forward of {kind_of(network)} writes into its own parameters {listed(changed)}, so it is no function "
            "of them: compute what it writes without changing them, such as weight.clamp(...)"
        )
    return weights, leaves, told


def _put(network: Network, module: nn.Module, weights: Tensor) -> None:
    values = network.named(weights)
    for name, parameter in module.named_parameters():
        if name in values:
            parameter.data.copy_(values[name])


@torch.no_grad()
def _check_passes(network: Network, module: nn.Module, few: Tensor, weights: Tensor, first: Tensor) -> None:
    """`module` is a copy at the moved `weights` [P], `first` are the network's outputs at its own."""
    network.outputs_at(module, few)  # what is made once, such as tables, is made now
    before = {name: tensor.clone() for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    plain = network.outputs_at(module, few)
    written = [
        name
        for name, tensor in module.state_dict().items()
        if name in before and not torch.equal(tensor, before[name]) and not bool(tensor.isnan().any())
    ]
    last = check_draws(network, few)
    if written:
        raise NetworkError(
            f"the forward of {kind_of(network)} writes into {listed(written)}, so it is no function of its weights: "
            "call module.eval() first, or let it keep nothing (of fake quantisation, disable the observers)"
        )
    if not (agree(network, first, last) and agree(network, plain, network.outputs_at(module, few))):
        raise refusal(network, "")
    watching = network.origin.watched({slot.name for slot in network.slots})
    with watching, Zeroing(network.named(weights)) as zeroing:
        told = tried(network, weights, few)  # without a graph, as the module was asked: there may be faster ways then
    if watching.found:
        raise NetworkError(
            f"the forward of {kind_of(network)} uses {listed(list(watching.found))} of the module that was given, and "
            "not of its copy, the one in which weights move: a function that it calls, such as a hook, takes it from a "
            "closure, a global name, a default or a weak reference; take it from self, or from the module that the "
            "hook is given"
        )
    network.zeroed.update(zeroing.found)
    effect = float(torch.nan_to_num(told - first).abs().max())
    if not agree(network, told, plain, effect):
        names = _reached_otherwise(network, few)
        raise NetworkError(
            f"{kind_of(network)} uses {listed(names) or 'a parameter'} by another way than as its parameter"
            f"{_holders(network, names)}, where weights that move do not come: use the parameter itself in forward, "
            "and keep no other reference to it or copy of it"
        )


def _reached_otherwise(network: Network, few: Tensor) -> list[str]:
    """The slots that mean one thing when they are told to the network and another in the module's own parameters."""
    weights, _, _ = _moved(network, few)
    module, found = network.module_at(network.weights), []
    for slot in network.slots:
        mixed = network.weights.clone()
        mixed[slot.start : slot.stop] = weights[slot.start : slot.stop]
        _put(network, module, mixed)
        own, plain = network(mixed, few), network.outputs_at(module, few)
        effect = float((own - network(network.weights, few)).abs().max())
        if not agree(network, own, plain, effect):
            found.append(slot.name)
    return found


def _holders(network: Network, names: Sequence[str]) -> str:
    """Where else these parameters are held, in brackets."""
    wanted = {id(p) for name, p in dict(network.parts())[""].named_parameters() if name in names}
    found = [
        f"{attribute!r} of {described(name, part)}"
        for name, part in network.parts()
        for attribute, tensor in tensors_beside(part)
        if id(tensor) in wanted
    ]
    return f" (held in {listed(list(dict.fromkeys(found)))})" if found else ""


def _check_rows(place: Place) -> None:
    network, few, outputs = place.network, place.inputs, place.outputs
    if len(few) < 3:
        return
    some, expected = tried(network, place.weights, few[-2:]), outputs[-2:]
    if some.shape != expected.shape:
        raise NetworkError(
            f"{len(few)} inputs gave outputs {tuple(outputs.shape)}, and 2 inputs {tuple(some.shape)}: a network gives "
            "rows of one shape, one for each input"
        )
    if float((some - expected).abs().max()) > _ROWS[place.precision] * float(outputs.abs().max()):
        raise NetworkError(
            f"the outputs of {kind_of(network)} for an input depend on the other inputs of its batch (normalisation by "
            "the batch), so it is no function of one input: use frozen statistics (module.eval(), "
            "track_running_stats=True)"
        )


def _far(network: Network, weights: Tensor, few: Tensor) -> Iterator[Tensor]:
    """Outputs at much larger weights, and to the other side, where the forward allows such."""
    for factor in (8, -8):
        with suppress(UsageError):
            yield tried(network, factor * weights, few)


def _check_geometry(
    network: Network, geometry: OutputGeometry, few: Tensor, weights: Tensor, first: Tensor, told: Tensor
) -> None:
    name, far = type(geometry).__name__, list(_far(network, weights, few))
    # Inputs that are all zero may ask for nothing on purpose: a layer without bias is the same there at any weights.
    if bool(few.any()) and all(torch.equal(first, outputs) for outputs in (told, *far)):
        raise constant(network)
    if isinstance(geometry, ChecksOutputs):
        rows = torch.cat([first, told, *far])
        geometry.check(rows[torch.isfinite(rows).flatten(1).all(1)])
    try:
        one, other = geometry.embed(first), geometry.embed(told)
    except FiprayError:
        raise
    except Exception as error:  # a geometry may be anyone's code
        raise UsageError(
            f"{name} cannot embed outputs of shape {tuple(first.shape)}: {type(error).__name__}: {error}"
        ) from error
    if not torch.equal(first, told) and torch.equal(one, other):
        raise NetworkError(
            f"{name} gives different outputs of {kind_of(network)} the same place, so that every network would be at "
            "distance 0: outputs are the same for all classes, or so sure that rounding leaves no difference. Give the "
            "outputs another geometry, such as Euclidean()"
        )
