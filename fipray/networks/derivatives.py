"""Second derivatives: forward passes that have them, and a search for the part that has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fipray.networks.compute import repeated_in
from fipray.networks.functional_module import FunctionalModule
from fipray.networks.modules import tensors_in

_RECURRENT = (torch.gru, torch.lstm, torch.rnn_relu, torch.rnn_tanh)
_ONCE_DIFFERENTIABLE = "torch::autograd::Error"  # the node that autograd puts behind @once_differentiable


class _RecurrentWithoutCudnn(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The recurrent kernels of cuDNN have no double backward; those of torch do.
        if function in _RECURRENT and args[0].is_cuda:
            with torch.backends.cudnn.flags(enabled=False):
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Make forward passes in this context twice differentiable.

    Attention and recurrent layers use kernels that have a second derivative. They need more memory, and on a GPU more
    time, than the fused ones.

    Yields:
        Nothing.
    """
    with _twice_differentiable(), repeated_in(_twice_differentiable):
        yield


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH), _RecurrentWithoutCudnn():
        yield


def transposed(outputs: Tensor, weights: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Compute `J^T z` at z = 0 with its graph, whose derivative by `z` gives products `J v` (double backward).

    Args:
        outputs: outputs of any shape, with their graph.
        weights: leaves of that graph, of any shapes; `J = d outputs / d weights`.

    Returns:
        `J^T z`, shaped as the leaves, and `z`, shaped as `outputs`. The first are differentiable by `z` where outputs
        depend on the leaf.

    Raises:
        RuntimeError: if a function in the graph has no second derivative.
    """
    with torch.enable_grad():
        probe = torch.zeros_like(outputs, requires_grad=True)
        found = torch.autograd.grad(outputs, weights, probe, create_graph=True, materialize_grads=True)
    if _is_cut(found):
        raise RuntimeError("a function that is marked @once_differentiable has no second derivative")
    return list(found), probe


def _is_cut(tensors: Sequence[Tensor]) -> bool:
    """Look for a function in the graph of tensors that is differentiable only once."""
    # Autograd silently omits what lies behind such a function as long as another path leads to the variable.
    seen, ahead = set(), [tensor.grad_fn for tensor in tensors]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name() == _ONCE_DIFFERENTIABLE:
            return True
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
    return False


def without_second_derivative(network: FunctionalModule, weights: Tensor, inputs: Tensor) -> str | None:
    """Find a part of a network that cannot be differentiated twice.

    Args:
        network: the network.
        weights: [P].
        inputs: [N, ...].

    Returns:
        The first and innermost part whose outputs have no second derivative by the weights, as "name (Class)"; None
        where every part has one.
    """
    found: list[str] = []

    def try_twice(name: str, part: nn.Module, output: object) -> None:
        for one in tensors_in(output):
            if found or not one.requires_grad:
                continue
            try:
                (first,), probe = transposed(one, [weights])
                if first.requires_grad:
                    # Retained, as the parts around this one are tried on the same graph.
                    torch.autograd.grad(first, probe, torch.ones_like(first), retain_graph=True)
            except RuntimeError:
                found.append(f"{name or 'the network'} ({type(part).__name__})")

    weights = weights.detach().requires_grad_(True)
    # Forward hooks of inner parts run before those of the parts around them, so the first failure is the innermost.
    hooks = [
        part.register_forward_hook(lambda part, _, output, name=name: try_twice(name, part, output))
        for name, part in network.parts()
    ]
    try:
        with torch.enable_grad():
            network(weights, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
