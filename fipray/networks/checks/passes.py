"""Forward passes of a module of unknown code: errors explained, and outputs compared up to rounding."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from fipray.errors import DataError, FiprayError, NetworkError, UsageError
from fipray.networks.compute import is_out_of_memory
from fipray.networks.functional_module import FunctionalModule
from fipray.networks.modules import described

NUM_INPUTS = 16  # enough to show a fault, few enough to be cheap
# Differences that rounding may cause, in units in the last place. Kernels differ by some, more in deeper networks. In
# half precision rounding is so coarse that a few units are all that can be told from a weight that has not moved.
_UNITS = {torch.float64: 1e6, torch.float32: 64, torch.float16: 2, torch.bfloat16: 2}


def num_inputs(network: FunctionalModule) -> int:
    """Choose the number of inputs on which a network is checked.

    Args:
        network: the network.

    Returns:
        16; fewer where its passes are bounded, but at least the three without which rows are not compared, unless
        memory has run out with these.
    """
    size = network.micro_batch or NUM_INPUTS
    asked = network.compute.micro_batch == size
    return min(max(size, 3 if asked else 1), NUM_INPUTS)


@torch.no_grad()
def tried(network: FunctionalModule, weights: Tensor, inputs: Tensor) -> Tensor:
    """Evaluate a network without gradients, and explain errors of its forward.

    Args:
        network: the network.
        weights: [P].
        inputs: [N, ...].

    Returns:
        Outputs [N, ...].

    Raises:
        DataError: if the module itself does not accept the inputs.
        NetworkError: if it accepts them, but not with other weights in place of its own.
    """
    try:
        return network(weights, inputs)
    except FiprayError:
        raise
    except Exception as error:  # a forward may raise anything
        if is_out_of_memory(error):
            raise
        raise _refusal(network, inputs, error) from error


def _refusal(network: FunctionalModule, inputs: Tensor, error: Exception) -> UsageError:
    # The plain module tells the two causes apart: it fails as well if the inputs are at fault.
    module = network.module_at(network.weights, share_frozen=True)
    kind, said = type(module).__name__, f"{where(network, error)}{type(error).__name__}: {error}"
    try:
        with torch.no_grad():
            network.outputs_at(module, inputs)
    except Exception:
        asked = _arguments(module)
        hint = f". Its forward asks for {', '.join(asked)}: wrap it in a module whose forward takes one tensor"
        return DataError(
            f"{kind} does not take inputs of shape [{', '.join(map(str, ('N', *inputs.shape[1:])))}] and dtype "
            f"{inputs.dtype}: {said}" + (hint if len(asked) > 1 else half_hint(error, inputs))
        )
    return NetworkError(
        f"{kind} takes these inputs, but not with other weights in place of its own (torch.func.functional_call): "
        f"{said}"
    )


def where(network: FunctionalModule, error: BaseException) -> str:
    """Locate an error within a network.

    Args:
        network: the network.
        error: raised by its forward, with a traceback.

    Returns:
        "in NAME (CLASS), " of the innermost part in whose forward it was raised; empty for the module itself.
    """
    parts = {id(part): (name, part) for name, part in network.parts()}
    # Frames further down the traceback are further in, so the last one that belongs to a part is the innermost.
    found, trace = "", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if id(owner) in parts and trace.tb_frame.f_code.co_name == "forward":
            name, part = parts[id(owner)]
            found = f"in {described(name, part)}, " if name else ""
        trace = trace.tb_next
    return found


def _arguments(module: nn.Module) -> list[str]:
    """Names of the required positional arguments of a module's forward."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind in positional]


def half_hint(error: Exception, inputs: Tensor) -> str:
    """Advice for operations that are missing in half precision.

    Args:
        error: raised by a forward pass.
        inputs: its inputs.

    Returns:
        A sentence to add to an error message; empty if the error has another cause.
    """
    if "not implemented for" in str(error) and ("Half" in str(error) or "BFloat16" in str(error)):
        return f". {inputs.device} has no such operation in half precision: give the module.float()"
    return ""


def moved(network: FunctionalModule, scale: float, seed: int = 0) -> Tensor:
    """Move all weights of a network by Gaussian noise.

    Args:
        network: the network.
        scale: standard deviation of the noise, in units of the root mean square of each parameter (of 0.1 for a
            parameter that is zero).
        seed: of the noise.

    Returns:
        Weights [P].
    """
    # Drawn on the CPU, so that all devices see the same weights.
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(network.num_weights, generator=generator, device="cpu").to(network.weights)
    for slot in network.slots:
        own = network.weights[slot.start : slot.stop]
        size = float(own.square().mean().sqrt()) if own.numel() else 0.0
        noise[slot.start : slot.stop] *= size or 0.1
    return network.weights + scale * noise


def leaves_of(network: FunctionalModule, weights: Tensor) -> dict[str, Tensor]:
    """Copy weights into separate leaves for autograd.

    Args:
        network: the network.
        weights: [P].

    Returns:
        Copies in the shapes of the parameters, by name, that require gradients.
    """
    return {name: part.detach().clone().requires_grad_() for name, part in network.named(weights).items()}


def agree(network: FunctionalModule, one: Tensor, other: Tensor, effect: float = 0.0) -> bool:
    """Compare outputs up to rounding.

    Args:
        network: the network; its lowest precision sets the tolerance.
        one: outputs [N, ...].
        other: outputs [N, ...].
        effect: size of the effect that weights have on them, a thousandth of which is tolerated as well.

    Returns:
        True if they are the same.
    """
    size = float(torch.nan_to_num(one).abs().max())
    dtypes = {parameter.dtype for _, part in network.parts() for parameter in part.parameters(recurse=False)}
    allowed = max(_UNITS[kind] * torch.finfo(kind).eps for kind in dtypes & _UNITS.keys() | {network.weights.dtype})
    return bool(torch.allclose(one, other, rtol=0, atol=1e-3 * effect + allowed * size, equal_nan=True))


def kind_of(network: FunctionalModule) -> str:
    """Class name of a network's module.

    Args:
        network: the network.

    Returns:
        The name.
    """
    return next(type(part).__name__ for _, part in network.parts())


def constant(network: FunctionalModule) -> NetworkError:
    """Error for outputs that are the same at all weights.

    Args:
        network: the network.

    Returns:
        The error, to raise.
    """
    return NetworkError(
        f"the outputs of {kind_of(network)} on these inputs are the same at all weights, so every network would be at "
        "functional distance 0: look for the layer that cuts them off (a threshold, weights that are all zero)"
    )
