"""Second derivatives: passes that have them, and what has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from fipray.networks.network import Network

_RECURRENT = (torch.gru, torch.lstm, torch.rnn_relu, torch.rnn_tanh)
_BROKEN_OFF = "torch::autograd::Error"


class _RecurrentWithoutCudnn(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _RECURRENT and args[0].is_cuda:
            with torch.backends.cudnn.flags(enabled=False):
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """A forward pass herein can be differentiated twice: attention and recurrent layers use kernels that can be, which
    need more memory, and on a GPU more time, than the fused ones.
    """
    with sdpa_kernel(SDPBackend.MATH), _RecurrentWithoutCudnn():
        yield


def transposed(outputs: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """`J^T z` [P] at `z` = 0, and `z`, shaped as `outputs`; differentiable by z where outputs depend on the weights.

    Raises RuntimeError where a function within has no second derivative.
    """
    with torch.enable_grad():
        probe = torch.zeros_like(outputs, requires_grad=True)
        found = torch.autograd.grad(outputs, weights, probe, create_graph=True, materialize_grads=True)[0]
    if _breaks_off(found):
        raise RuntimeError("a function that is marked @once_differentiable is in the way")
    return found, probe


def _breaks_off(tensor: Tensor) -> bool:
    """Whether the graph of `tensor` holds a function that is differentiable once only. Autograd itself leaves out what
    lies behind it, without a word, as long as another way leads to what is differentiated by.
    """
    seen, ahead = set(), [tensor.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name() == _BROKEN_OFF:
            return True
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
    return False


def without_second_derivative(network: Network, weights: Tensor, inputs: Tensor) -> str | None:
    """The first and innermost part of a network's module, as "name (Class)", whose outputs autograd cannot
    differentiate twice by `weights` [P]; None where every part can be.
    """
    found: list[str] = []

    def try_twice(name: str, part: nn.Module, output: object) -> None:
        for one in tensors_in(output):
            if found or not one.requires_grad:
                continue
            try:
                first, probe = transposed(one, weights)
                if first.requires_grad:
                    torch.autograd.grad(first, probe, torch.ones_like(first), retain_graph=True)
            except RuntimeError:
                found.append(f"{name or 'the network'} ({type(part).__name__})")

    weights = weights.detach().requires_grad_(True)
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


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors in what a module or a function takes or gives."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)
