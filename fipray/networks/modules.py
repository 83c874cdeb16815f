"""Modules as they come: unwrapped, copied, refused where they can be no network, and what their forward returns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from fipray.errors import NetworkError

_WRAPPERS = ("_orig_mod", "module")  # of torch.compile, and of DataParallel and DistributedDataParallel


class _WithoutGraphs(TorchFunctionMode):
    """Tensors that a forward pass left in a module, such as the `weight` of an old-style weight_norm, are copied
    without the graph that made them, which `copy.deepcopy` refuses to do.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return function(*args, **(kwargs or {}))


def copied(module: nn.Module) -> nn.Module:
    """A copy of the module that `module` is or wraps (torch.compile, DataParallel, DistributedDataParallel), also where
    it is a part. What cannot be copied and is no tensor or module, such as a lock, is shared with the original.

    Raises NetworkError, which names the part, where a copy cannot be made.
    """
    shared: dict[int, Any] = {}
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


def _copied(module: nn.Module, shared: Mapping[int, Any]) -> nn.Module:
    memo: dict[int, Any] = dict(shared)
    wrappers = [part for part in module.modules() if unwrapped(part) is not part]
    with _WithoutGraphs():
        for part in reversed(wrappers):  # the inner ones first
            memo[id(part)] = copy.deepcopy(unwrapped(part), memo)
        return copy.deepcopy(module, memo)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module within wrappers that change how it is run and not what it computes."""
    inner = getattr(module, _WRAPPERS[0], None) if type(module).__name__ == "OptimizedModule" else None
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = module.module
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def _innermost_uncopyable(module: nn.Module, shared: Mapping[int, Any]) -> str:
    for name, part in reversed(list(module.named_modules())):
        try:
            _copied(part, shared)
        except Exception:
            return described(name, part)
    return type(module).__name__


def _uncopyable(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The smallest things within a module that `copy.deepcopy` refuses, with where they are."""
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


def contents(value: Any) -> list[Any]:
    """What lies in a container; nothing for other values."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, (list, tuple, set, frozenset)) else []


def described(name: str, part: nn.Module) -> str:
    """A part of a module, for people."""
    return f"{name!r} ({type(part).__name__})" if name else type(part).__name__


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


@contextmanager
def nothing_left(module: nn.Module) -> Iterator[None]:
    """What passes leave in the module's attributes meanwhile, such as tensors that only vmap can read, is dropped."""
    before = [(vars(part), dict(vars(part))) for part in module.modules()]
    try:
        yield
    finally:
        for attributes, values in before:
            attributes.clear()
            attributes.update(values)


def refuse_what_is_no_network(module: nn.Module) -> None:
    """Raise NetworkError, which names the part, for what can be no function of weights that are told to it."""
    for name, part in module.named_modules():
        what = described(name, part)
        if isinstance(part, torch.jit.ScriptModule):
            raise NetworkError(
                f"{what} is scripted or traced (torch.jit), and weights cannot be put into it: give the module that it "
                "was made from"
            )
        if ".quantized" in type(part).__module__ and type(part).__module__.startswith("torch."):
            raise NetworkError(f"{what} is quantised, so its weights cannot move: give the module in floating point")
        if type(part).__name__ in ("FullyShardedDataParallel", "FSDPModule"):
            raise NetworkError(f"{what} is in shards, and a network is whole: give the module that it wraps")
        for key, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if is_lazy(tensor):
                raise NetworkError(
                    f"{key!r} of {what} has no shape yet (a lazy module): pass one batch of inputs through "
                    "the module first"
                )
        for key, parameter in part.named_parameters(recurse=False):
            whole = f"{name}.{key}".removeprefix(".")
            if parameter.is_meta:
                raise NetworkError(f"parameter {whole} of {what} is on the meta device, so it has no values: load some")
            if type(parameter.data) is not Tensor or parameter.layout is not torch.strided:
                raise NetworkError(
                    f"parameter {whole} of {what} is a {type(parameter.data).__name__} ({parameter.layout}), and a "
                    "network is made of plain dense tensors: give the module with such parameters"
                )


def refuse_shared_memory(module: nn.Module) -> None:
    """Raise NetworkError where a tensor that is no parameter, or another parameter, lies in a parameter's memory: what
    moves one would move the other, which copies, state_dicts and files do not keep.
    """
    parameters = {id(p): (f"parameter {name}", p) for name, p in module.named_parameters()}
    places: dict[int, list[tuple[int, int, str]]] = {}
    for what, parameter in parameters.values():
        places.setdefault(parameter.untyped_storage().data_ptr(), []).append((*_extent(parameter), what))
    for spans in places.values():
        spans.sort()
        for (_, stop, one), (start, _, other) in pairwise(spans):
            if start < stop:
                raise NetworkError(
                    f"{one} and {other} lie in the same memory but are two parameters: assign one nn.Parameter to both "
                    "places, so that they are known to be tied"
                )
    for name, part in module.named_modules():
        computed = {getattr(hook, "name", "") for hook in part._forward_pre_hooks.values()}  # anew before each pass
        for attribute, tensor in tensors_beside(part):
            if id(tensor) in parameters or attribute in computed:
                continue
            if not tensor.numel() or tensor.layout is not torch.strided:
                continue
            start, stop = _extent(tensor)
            for begin, end, what in places.get(tensor.untyped_storage().data_ptr(), ()):
                if start < end and begin < stop:
                    raise NetworkError(
                        f"{attribute!r} of {described(name, part)} lies in the memory of {what}, and would not follow "
                        "it when weights move: compute it in forward, or clone it"
                    )


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage in which a strided tensor lies, from and to."""
    reach = sum((int(size) - 1) * int(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset()) * tensor.element_size()
    return start, start + (reach + 1) * tensor.element_size() if tensor.numel() else start


def tensors_beside(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a module holds beside its parameters, with the attributes that hold them: buffers, and what lies in
    plain attributes and containers, parameters of modules in plain containers among them.
    """
    for attribute, value in vars(part).items():
        if attribute == "_buffers":
            yield from ((key, tensor) for key, tensor in value.items() if tensor is not None)
        elif attribute not in ("_parameters", "_modules") and not attribute.endswith("_hooks"):
            yield from ((attribute, tensor) for tensor in _tensors_in(value))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    else:
        for one in contents(value):
            yield from _tensors_in(one)


def parameter_names(module: nn.Module, moving: Sequence[str] | str | None) -> list[str]:
    """The names of the parameters that move, in order: those that fit a pattern of `moving`, such as "fc*.weight", or
    else those that require gradients.

    Raises NetworkError where there are none, where a pattern fits none, or one that fits cannot move.
    """
    own = {id(parameter): name for name, parameter in module.named_parameters()}
    parameters = dict(module.named_parameters())
    if not parameters:
        raise NetworkError(f"{type(module).__name__} has no parameters, so there is no weight space to walk in")
    if moving is None:
        names = [name for name, parameter in parameters.items() if parameter.requires_grad]
        if not names:
            raise NetworkError(
                f"all parameters of {type(module).__name__} are frozen (requires_grad=False), so nothing moves: say "
                'which move with moving=["*"] or names such as "head.*"'
            )
    else:
        aliases = [(name, own[id(p)]) for name, p in module.named_parameters(remove_duplicate=False)]
        names = matching(moving, aliases)
    for name in names:
        if parameters[name].is_complex():
            raise NetworkError(
                f"parameter {name} is complex, and weights are real numbers: hold its real and imaginary parts "
                "(torch.view_as_real) and join them in forward, or freeze it (requires_grad=False)"
            )
        if not parameters[name].is_floating_point() or parameters[name].element_size() < 2:
            raise NetworkError(
                f"parameter {name} is of {parameters[name].dtype}, in which no small step can be taken: leave it out "
                "of moving"
            )
    return names


def matching(patterns: Sequence[str] | str, aliases: Sequence[tuple[str, str]]) -> list[str]:
    """What stands beside the names that fit one of the patterns or more, in order, each once; `aliases` are pairs of a
    name and what stands beside it. Raises NetworkError where a pattern fits none.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    unknown = [pattern for pattern in given if not any(fnmatchcase(name, pattern) for name, _ in aliases)]
    if unknown or not given:
        raise NetworkError(
            f"no parameter is named {', '.join(map(repr, unknown)) or '(nothing was given)'}; "
            f"there are: {listed([name for name, _ in aliases], 40)}"
        )
    return list(dict.fromkeys(own for name, own in aliases if any(fnmatchcase(name, one) for one in given)))


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names for a sentence, the first `most` of them."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def outputs_of(returned: object, module: nn.Module) -> Tensor:
    """The outputs in what a forward returned: the tensor itself, or its `logits`.

    Raises NetworkError for anything else, with what to do.
    """
    found = returned
    if not isinstance(returned, Tensor):
        by_key = returned.get("logits") if isinstance(returned, Mapping) else None
        found = getattr(returned, "logits", by_key)
    if not isinstance(found, Tensor):
        kind = type(returned).__name__
        raise NetworkError(
            f"{type(module).__name__} gives a {kind} of outputs, and a network gives one tensor, or has one under "
            '"logits": wrap it in a module whose forward returns the tensor that counts, or concatenates the heads '
            "along dimension 1; say what each of them means with the geometry Heads((FisherRao(), Euclidean()), "
            "sizes=(10, 3))"
        )
    return found
