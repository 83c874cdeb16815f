"""Layout of a layer's output channels in a traced tensor, and what operations make of it."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

# Operations that are known to act on each element by itself. Whether they keep zeros is found by applying them to one.
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
    """Layout of channels in a tensor.

    Args:
        ndim: number of dimensions of a tensor [N, C, ...]; None if channels are in the last dimension.
        zero: true if a channel whose own weights are zero is zero here.
        several: true if a channel may take several consecutive places of the last dimension, as after flattening.
    """

    ndim: int | None
    zero: bool
    several: bool = False

    def holds(self, num: int, size: int) -> bool:
        """Compare the size of a dimension with the number of channels.

        Args:
            num: number of channels.
            size: size of the dimension.

        Returns:
            True if the dimension can consist of these channels.
        """
        return size == num or (self.several and size % num == 0)


def arguments(node: Any, *known: tuple[str, Any]) -> list[Any]:
    """Arguments of a traced call, after its first.

    Args:
        node: the call, a torch.fx node.
        *known: names of the arguments in order, each with its default.

    Returns:
        Values given by position or by name, or the defaults.
    """
    return [
        node.args[place] if place < len(node.args) else node.kwargs.get(name, default)
        for place, (name, default) in enumerate(known, 1)
    ]


def is_batch_size(user: Any, node: Any) -> bool:
    """Recognise a use of a tensor for the length of its first dimension only.

    Args:
        user: the torch.fx node that uses the tensor.
        node: the node of the tensor.

    Returns:
        True for such a use.
    """
    if user.op == "call_method" and user.target == "size" and arguments(user, ("dim", None)) == [0]:
        return True
    is_shape = (user.op, user.target, user.args) in (
        ("call_method", "size", (node,)),
        ("call_function", getattr, (node, "shape")),
    )
    return is_shape and all(one.target is operator.getitem and one.args == (user, 0) for one in user.users)


def keeps_rows(user: Any, node: Any) -> bool:
    """Recognise a `view` or `reshape` to [N, -1].

    Args:
        user: the torch.fx node of the call.
        node: the node of the tensor.

    Returns:
        True for such a call.
    """
    shape = user.args[1] if len(user.args) == 2 else user.args[1:]
    if not isinstance(shape, (tuple, list)) or len(shape) != 2 or shape[1] != -1 or not isinstance(shape[0], fx.Node):
        return False
    size = shape[0].args[0] if shape[0].target is operator.getitem else shape[0]
    source = next(iter(size.all_input_nodes), None)
    return source is not None and (source is node or source.op == "placeholder") and is_batch_size(size, source)


def flattened(signal: Signal, start: Any, end: Any) -> Signal | None:
    """Layout of channels after flattening.

    Args:
        signal: the layout before.
        start: first dimension to flatten.
        end: last dimension to flatten.

    Returns:
        The layout after; None where channels mix.
    """
    if end != -1 or start not in (1, 2):
        return None
    if start == 1:
        return replace(signal, ndim=None, several=signal.several or signal.ndim is not None)
    return replace(signal, ndim=3) if signal.ndim is not None else None


def averaged(signal: Signal, dims: Any, keep: bool) -> Signal | None:
    """Layout of channels after a mean.

    Args:
        signal: the layout before.
        dims: a dimension or several; None for all.
        keep: true if dimensions are kept with size 1.

    Returns:
        The layout after; None where channels or examples mix.
    """
    if signal.ndim is None or dims is None:
        return None
    over = {dim % signal.ndim for dim in ((dims,) if isinstance(dims, int) else dims)}
    if over & {0, 1}:
        return None
    # [N, C] is the layout of linear layers, for which channels are in the last dimension.
    left = signal.ndim if keep else signal.ndim - len(over)
    return replace(signal, ndim=None if left == 2 else left)


def mapped(user: Any, part: nn.Module | None, signal: Signal) -> Signal | None:
    """Layout of channels after an elementwise function.

    Args:
        user: the torch.fx node of the call.
        part: the module that is called; None for functions and methods.
        signal: the layout before.

    Returns:
        The layout after; None where the function is not known to be elementwise.
    """
    # The image of zero tells whether channels that are zero stay so.
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
