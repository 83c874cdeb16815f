"""A forward pass, which is anyone's code: what its errors mean, and when two of them give the same."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fipray.errors import DataError, FiprayError, NetworkError, UsageError
from fipray.networks.modules import described

if TYPE_CHECKING:
    from fipray.networks.network import Network

NUM_INPUTS = 16  # of a pass that tries something
_UNITS = {torch.float64: 1e6, torch.float32: 64, torch.float16: 2, torch.bfloat16: 2}  # in the last place


@torch.no_grad()
def tried(network: Network, weights: Tensor, inputs: Tensor) -> Tensor:
    try:
        return network(weights, inputs)
    except (FiprayError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a forward is anyone's code
        raise _refusal(network, inputs, error) from error


def _refusal(network: Network, inputs: Tensor, error: Exception) -> UsageError:
    """What an error of a forward means: the module refuses the inputs, or weights that are told to it."""
    module = network.module_at(network.weights)
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


def where(network: Network, error: BaseException) -> str:
    """The innermost part in whose forward an error was raised, before a colon; empty for the module itself."""
    parts = {id(part): (name, part) for name, part in network.parts()}
    found, trace = "", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if id(owner) in parts and trace.tb_frame.f_code.co_name == "forward":
            name, part = parts[id(owner)]
            found = f"in {described(name, part)}, " if name else ""
        trace = trace.tb_next
    return found


def _arguments(module: nn.Module) -> list[str]:
    """The arguments that the module's forward cannot do without."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind in positional]


def half_hint(error: Exception, inputs: Tensor) -> str:
    if "not implemented for" in str(error) and ("Half" in str(error) or "BFloat16" in str(error)):
        return f". In half precision there is no such operation on {inputs.device}: give the module.float()"
    return ""


def moved(network: Network, scale: float, seed: int = 0) -> Tensor:
    """Weights [P] all of which have moved by about `scale` times the root mean square of their parameter."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(network.num_weights, generator=generator, device="cpu").to(network.weights)
    for slot in network.slots:
        own = network.weights[slot.start : slot.stop]
        size = float(own.square().mean().sqrt()) if own.numel() else 0.0
        noise[slot.start : slot.stop] *= size or 0.1
    return network.weights + scale * noise


def leaves_of(network: Network, weights: Tensor) -> dict[str, Tensor]:
    """Copies of the parts of `weights` [P] by the parameters' names, which autograd follows."""
    return {name: part.detach().clone().requires_grad_() for name, part in network.named(weights).items()}


def agree(network: Network, one: Tensor, other: Tensor, effect: float = 0.0) -> bool:
    """Whether outputs are the same to rounding, or to a thousandth of the `effect` that weights have on them."""
    size = float(torch.nan_to_num(one).abs().max())
    dtypes = {parameter.dtype for _, part in network.parts() for parameter in part.parameters(recurse=False)}
    # Kernels differ by some units in the last place, and the more of them the deeper a network; what is in half
    # precision rounds so coarsely that a few units are all that can be told from a weight that has not moved.
    allowed = max(_UNITS[kind] * torch.finfo(kind).eps for kind in dtypes & _UNITS.keys() | {network.weights.dtype})
    return bool(torch.allclose(one, other, rtol=0, atol=1e-3 * effect + allowed * size, equal_nan=True))


def kind_of(network: Network) -> str:
    return next(type(part).__name__ for _, part in network.parts())


def constant(network: Network) -> NetworkError:
    return NetworkError(
        f"the outputs of {kind_of(network)} on these inputs are the same at whatever weights, so every network would "
        "be at distance 0: look for what cuts them off (a threshold, a layer that is all zero)"
    )
