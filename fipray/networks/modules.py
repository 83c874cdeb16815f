"""Modules as users give them: unwrapping, copying, and the tensors in and beside them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fipray.errors import NetworkError

_WRAPPERS = ("_orig_mod", "module")  # of torch.compile, and of DataParallel and DistributedDataParallel


class _WithoutGraphs(TorchFunctionMode):
    """Deep copies of tensors without the graph that computed them.

    A forward pass may leave such tensors in a module, for example the `weight` of an old-style weight_norm, and
    `copy.deepcopy` refuses tensors that are not leaves.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return function(*args, **(kwargs or {}))


def copied(module: nn.Module, sharing: Iterable[nn.Parameter] = ()) -> nn.Module:
    """Copy a module without its wrappers, also where a wrapper is around a submodule.

    Args:
        module: a module or a wrapper of one (torch.compile, DataParallel, DistributedDataParallel).
        sharing: parameters of the module whose memory the copy shares. The copy has parameters of its own there too:
            what they require, and assignment to their `.data`, concerns the copy alone. Nothing may write into them.

    Returns:
        A deep copy. Values that cannot be copied and hold no weights, such as locks, are shared with the original.

    Raises:
        NetworkError: naming the part, if a tensor or a module cannot be copied.
    """
    shared: dict[int, Any] = {id(one): alias for one in sharing if (alias := _alias(one)) is not None}
    try:
        return _copied(module, shared)
    except Exception as error:  # copying runs the module's own code
        cause = error
    for place, value in _uncopyable(module):
        if isinstance(value, (Tensor, nn.Module)):
            raise NetworkError(
                f"{place} cannot be copied, and a network is a copy of its module ({_said(cause)}): make it copyable "
                "with copy.deepcopy, or leave it out"
            ) from cause
        shared[id(value)] = value
    try:
        return _copied(module, shared)
    except Exception as error:
        raise NetworkError(
            f"{_innermost_uncopyable(module, shared)} cannot be copied, and a network is a copy of its module "
            f"({_said(error)}): make it copyable with copy.deepcopy"
        ) from error


def _alias(parameter: nn.Parameter) -> nn.Parameter | None:
    """Another parameter in the same memory and with the same version counter; None where torch allows none."""
    if torch.is_inference_mode_enabled() or parameter.is_inference():
        return None  # no version counter would tell of writes
    try:
        alias = type(parameter)(parameter.detach(), requires_grad=parameter.requires_grad)
        return alias if alias._version == parameter._version and alias.data_ptr() == parameter.data_ptr() else None
    except Exception:  # a subclass may do anything
        return None


def _copied(module: nn.Module, shared: Mapping[int, Any]) -> nn.Module:
    memo: dict[int, Any] = dict(shared)
    wrappers = [part for part in module.modules() if unwrapped(part) is not part]
    with _WithoutGraphs():
        # A wrapper is replaced by entering the copy of its inner module in the memo; inner wrappers come first.
        for part in reversed(wrappers):
            memo[id(part)] = copy.deepcopy(unwrapped(part), memo)
        return copy.deepcopy(module, memo)


def unwrapped(module: nn.Module) -> nn.Module:
    """Remove wrappers that change how a module runs but not what it computes.

    Args:
        module: a module, or a wrapper of one (torch.compile, DataParallel, DistributedDataParallel), or nested ones.

    Returns:
        The innermost module itself, not a copy.
    """
    # By the name of its class, as importing torch._dynamo to compare classes is slow.
    inner = getattr(module, _WRAPPERS[0], None) if type(module).__name__ == "OptimizedModule" else None
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = module.module
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def _innermost_uncopyable(module: nn.Module, shared: Mapping[int, Any]) -> str:
    for name, part in reversed(list(module.named_modules())):  # inner modules come after those that contain them
        try:
            _copied(part, shared)
        except Exception:
            return described(name, part)
    return type(module).__name__


def _uncopyable(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Smallest values within a module that `copy.deepcopy` refuses, each after its place."""
    for name, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute not in ("_parameters", "_buffers", "_modules"):
                yield from _refused(value, f"{attribute!r} of {described(name, part)}")
            elif attribute != "_modules":
                for key, tensor in value.items():
                    yield from _refused(tensor, f"{key!r} of {described(name, part)}")


def _refused(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        yield from _uncopyable(value)
        return
    try:
        with _WithoutGraphs():
            copy.deepcopy(value)
    except Exception:
        inside = [found for one in contents(value) for found in _refused(one, place)]
        yield from inside or [(place, value)]


@contextmanager
def nothing_left(module: nn.Module) -> Iterator[None]:
    """Restore the attributes of a module and its submodules afterwards.

    Some modules keep what they compute. Tensors from within `torch.vmap` are unusable outside of it.

    Args:
        module: the module whose forward runs in the context.

    Yields:
        Nothing.
    """
    before = [(vars(part), dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        for attributes, values in before:
            attributes.clear()
            attributes.update(values)


def outputs_of(returned: object, module: nn.Module) -> Tensor:
    """Extract the outputs from what a forward pass returned.

    Args:
        returned: a tensor, or an object or mapping with one under `logits`, as in transformers.
        module: the module, for the error message.

    Returns:
        The tensor.

    Raises:
        NetworkError: for anything else.
    """
    found = returned
    if not isinstance(returned, Tensor):
        by_key = returned.get("logits") if isinstance(returned, Mapping) else None
        found = getattr(returned, "logits", by_key)
    if not isinstance(found, Tensor):
        kind = type(returned).__name__
        raise NetworkError(
            f"{type(module).__name__} gives a {kind} of outputs, and a network must return one tensor, or have one "
            'under "logits": wrap it in a module whose forward returns the tensor that matters, or concatenates the '
            "heads along dimension 1; with several heads, name the geometry of each, such as Heads((FisherRao(), "
            "Euclidean()), sizes=(10, 3))"
        )
    return found


def described(name: str, part: nn.Module) -> str:
    """Describe a part of a module for an error message.

    Args:
        name: its name; empty for the module itself.
        part: the part.

    Returns:
        Name and class, such as "'0.conv' (Conv2d)".
    """
    return f"{name!r} ({type(part).__name__})" if name else type(part).__name__


def tensors_beside(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a module holds besides its registered parameters and submodules.

    Args:
        part: the module; its submodules are not searched.

    Yields:
        Pairs (attribute, tensor): buffers, and tensors in plain attributes and containers, among them the parameters of
        modules in plain containers.
    """
    for attribute, value in vars(part).items():
        if attribute == "_buffers":
            yield from ((key, tensor) for key, tensor in value.items() if tensor is not None)
        elif attribute not in ("_parameters", "_modules") and not attribute.endswith("_hooks"):
            yield from ((attribute, tensor) for tensor in _tensors_held(value))


def _tensors_held(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    else:
        for one in contents(value):
            yield from _tensors_held(one)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Tensors in the arguments or the result of a function.

    Args:
        value: a tensor, or mappings, tuples and lists of them, nested.

    Yields:
        Each tensor.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors_in(one)


def contents(value: Any) -> list[Any]:
    """Values in a container.

    Args:
        value: anything.

    Returns:
        The values of a mapping, the items of a list, tuple or set; empty for all else.
    """
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else []


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
