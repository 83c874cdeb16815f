"""Layout of a layer's output channels in a traced tensor, and what operations make of it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

_ELEMENTWISE_MODULES = {
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU),
    *(nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Softsign, nn.Tanhshrink, nn.Softshrink),
    *(nn.Hardshrink, nn.Sigmoid, nn.Hardsigmoid, nn.LogSigmoid, nn.Softplus),
}
_ELEMENTWISE = {
    *("dropout", "dropout1d", "dropout2d", "relu", "relu_", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu"),
    *("silu", "mish", "tanh", "tanh_", "hardtanh", "hardswish", "softsign", "tanhshrink", "softshrink", "hardshrink"),
    *("sigmoid", "hardsigmoid", "logsigmoid", "softplus", "clamp", "contiguous", "clone"),
}
_ELEMENTWISE_FUNCTIONS = {
    getattr(home, name) for home in (torch, functional) for name in _ELEMENTWISE if hasattr(home, name)
}


@dataclass(frozen=True)
class Signal:
    """How channels lie in a tensor: [N, C, ...] of `ndim` dimensions, or, ndim None, in the last dimension, each in one
    place or in `several` that follow each other. zero: whether a channel without own weights is zero here.
    """

    ndim: int | None
    zero: bool
    several: bool = False

    def holds(self, num: int, size: int) -> bool:
        """Whether a dimension of `size` can be these `num` channels."""
        return size == num or (self.several and size % num == 0)


def arguments(node: Any, *known: tuple[str, Any]) -> list[Any]:
    """The arguments of a call after its first, by position, name or default."""
    return [
        node.args[place] if place < len(node.args) else node.kwargs.get(name, default)
        for place, (name, default) in enumerate(known, 1)
    ]


def is_batch_size(user: Any, node: Any) -> bool:
    """Whether `user` asks `node` for the length of its first dimension and for nothing else."""
    if user.op == "call_method" and user.target == "size" and arguments(user, ("dim", None)) == [0]:
        return True
    is_shape = (user.op, user.target, user.args) in (
        ("call_method", "size", (node,)),
        ("call_function", getattr, (node, "shape")),
    )
    return is_shape and all(one.target is operator.getitem and one.args == (user, 0) for one in user.users)


def keeps_rows(user: Any, node: Any) -> bool:
    """Whether a `view` or `reshape` of `node` is one to [N, -1]."""
    shape = user.args[1] if len(user.args) == 2 else user.args[1:]
    if not isinstance(shape, (tuple, list)) or len(shape) != 2 or shape[1] != -1 or not isinstance(shape[0], fx.Node):
        return False
    size = shape[0].args[0] if shape[0].target is operator.getitem else shape[0]
    source = next(iter(size.all_input_nodes), None)
    return source is not None and (source is node or source.op == "placeholder") and is_batch_size(size, source)


def flattened(signal: Signal, start: Any, end: Any) -> Signal | None:
    if end != -1 or start not in (1, 2):
        return None
    if start == 1:
        return replace(signal, ndim=None, several=signal.several or signal.ndim is not None)
    return replace(signal, ndim=3) if signal.ndim is not None else None


def averaged(signal: Signal, dims: Any, keep: bool) -> Signal | None:
    if signal.ndim is None or dims is None:
        return None
    over = {dim % signal.ndim for dim in ((dims,) if isinstance(dims, int) else dims)}
    if over & {0, 1}:
        return None
    left = signal.ndim if keep else signal.ndim - len(over)
    return replace(signal, ndim=None if left == 2 else left)


def mapped(user: Any, part: nn.Module | None, signal: Signal) -> Signal | None:
    """After an elementwise function: what it makes of zero, it makes of a channel that is zero."""
    nothing, rest = torch.zeros(1), user.args[1:]
    if part is not None:
        image = part(nothing) if type(part) in _ELEMENTWISE_MODULES else None
    elif user.op == "call_method":
        image = getattr(nothing, user.target)(*rest, **user.kwargs) if user.target in _ELEMENTWISE else None
    elif user.target in _ELEMENTWISE_FUNCTIONS:
        image = user.target(nothing, *rest, **user.kwargs)
    else:
        image = None
    return None if image is None else replace(signal, zero=signal.zero and bool(image == 0))
