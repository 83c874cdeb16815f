"""All checks of a network, in order."""

from __future__ import annotations

import torch
from torch import Tensor

from fipray.errors import DataError, NetworkError, UsageError
from fipray.networks.checks.dependence import check_gradients
from fipray.networks.checks.differences import Place, check_differences
from fipray.networks.checks.distances import check_geometry
from fipray.networks.checks.passes import NUM_INPUTS, kind_of, tried
from fipray.networks.checks.purity import check_passes, check_rows, load, perturbed
from fipray.networks.checks.randomness import kept_randomness
from fipray.networks.deferred import Deferred
from fipray.networks.embedding import OutputGeometry
from fipray.networks.frozen import WriteError
from fipray.networks.functional_module import FunctionalModule

_CHUNK = 4096  # inputs that are looked at together


def run_checks(network: FunctionalModule, inputs: Tensor, geometry: OutputGeometry | None) -> None:
    """Raise unless a network is a pure function of its weights on given inputs.

    - The module accepts the inputs and returns one finite row of real numbers for each, whatever else is in the batch.
    - Outputs at the network's weights w0, at weights w1 all of which have moved, and at w0 again depend on the weights
      and inputs alone: they are the same twice, whatever random numbers are drawn, and equal those of `module_at(w1)`
      at w1. The forward writes into no parameter or buffer and uses none of the module that was given.
    - Every parameter that moves affects the outputs, as much as autograd says, and no other tensor that requires
      gradients does.
    - The output geometry can embed the outputs and tells those at w0 and w1 apart.

    Costs about 18 forward and 2 backward passes on a few inputs, once for inputs of one shape, dtype and device; more
    where something looks wrong. States of random number generators are restored.

    Args:
        network: the network; what has been checked is added to its `checked`.
        inputs: [N, ...].
        geometry: an output geometry; None to skip the last check.

    Raises:
        DataError: for inputs that are not finite or that the module does not accept.
        NetworkError: for faults of the module.
        UsageError: in modes of torch without gradients, or if the geometry cannot embed the outputs.
    """
    _check_values(inputs)
    _check_modes(network, inputs)
    batch = inputs[:NUM_INPUTS]
    # Without the weights: what is checked is the module's code, which is the same at all of them.
    key = (inputs.shape[1:], inputs.dtype, inputs.device, tuple(slot.name for slot in network.moving))
    is_new = key not in network.checked
    network.frozen.verify_values()
    with kept_randomness(network):
        if is_new and network.frozen:
            _guard_frozen(network, batch)
        # Copied before a pass can leave anything in it.
        module = network.module_at(network.weights, share_frozen=True) if is_new else None
        # Also for known kinds of inputs: whether outputs are finite depends on values and weights.
        first = tried(network, network.weights, batch)
        _check_outputs(first, len(batch))
        if module is None and (geometry is None or (key, geometry) in network.checked):
            return
        weights, leaves, outputs = perturbed(network, batch)
        if module is not None:
            # In this order: gradients and differences mean nothing where two passes give different outputs.
            load(network, module, weights)
            check_passes(network, module, batch, weights, first)
            check_gradients(network, inputs, weights, leaves, outputs)
            outputs = outputs.detach()
            del module, leaves  # with the graph, two copies of the weights
            place = Place(network, weights, batch, outputs).in_double()
            check_rows(place)
            check_differences(place)
            del place
            network.frozen.verify_values()
            network.checked.add(key)
        if geometry is not None:
            check_geometry(network, geometry, batch, weights, first, outputs.detach())
            network.checked.add((key, geometry))


def _guard_frozen(network: FunctionalModule, inputs: Tensor) -> None:
    """Give a network memory of its own where its forward would write into that of the module that was given."""
    # Of a copy, in which a pass may leave what it likes.
    module = network.module_at(network.weights, share_frozen=True)
    try:
        with torch.no_grad(), network.frozen.guarded():
            network.outputs_at(module, inputs)
    except WriteError:  # before anything was written
        network.frozen.unshare()  # the checks decide whether such a forward can be used, as of any module
    except Exception:  # which the first check explains
        return


def _check_values(inputs: Tensor) -> None:
    if inputs.ndim == 0 or len(inputs) == 0:
        raise DataError("there are no inputs: at least one is needed")
    # Deferred inputs are checked as they are read.
    if isinstance(inputs, Deferred) or not inputs.is_floating_point():
        return
    # In chunks, because torch.isfinite takes more memory than the inputs.
    if not all(bool(torch.isfinite(part).all()) for part in inputs.split(_CHUNK)):
        bad = int((~torch.isfinite(inputs)).flatten(1).any(1).sum())
        raise DataError(f"{bad} of {len(inputs)} inputs hold NaN or infinity: remove or repair them")


def _check_modes(network: FunctionalModule, inputs: Tensor) -> None:
    """Raise UsageError or DataError in modes of torch in which nothing can be differentiated or drawn."""
    if torch.is_inference_mode_enabled():
        raise UsageError(
            "torch.inference_mode is on, in which autograd records no gradients, and every step needs them: call this "
            "outside of it, with a module and inputs made outside"
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
            f"torch's default device is {default}, but random numbers are drawn on the CPU, so that they are the same "
            "for every device: call torch.set_default_device('cpu'), and move module and inputs with .to(device)"
        )


def _check_outputs(outputs: Tensor, num_inputs: int) -> None:
    if outputs.ndim < 2 or len(outputs) != num_inputs or not outputs.numel():
        raise NetworkError(
            f"a network must return one row of outputs for each input, [N, C]; {num_inputs} inputs gave outputs of "
            f"shape {tuple(outputs.shape)}"
        )
    if not outputs.is_floating_point():
        raise NetworkError(
            f"the outputs are {outputs.dtype}, and a network must return real numbers that change with its weights, "
            "such as logits: leave out what comes after them (argmax, rounding, a complex transform)"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise NetworkError("the network's outputs hold NaN or infinity on finite inputs: repair its weights")
