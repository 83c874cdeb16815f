"""Kinds of modules that cannot be evaluated at other weights, refused with a way out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fipray.errors import NetworkError
from fipray.networks.modules import described, tensors_beside


def refuse_unsupported(module: nn.Module) -> None:
    """Raise for modules whose weights cannot be replaced.

    Args:
        module: the module.

    Raises:
        NetworkError: naming the part, if one is scripted, traced, quantised, sharded or lazy, or if a parameter is on
            the meta device, sparse, or of a tensor subclass.
    """
    for name, part in module.named_modules():
        what = described(name, part)
        if isinstance(part, torch.jit.ScriptModule):
            raise NetworkError(
                f"{what} is scripted or traced (torch.jit), so its weights cannot be replaced: give the module that it "
                "was made from"
            )
        if ".quantized" in type(part).__module__ and type(part).__module__.startswith("torch."):
            raise NetworkError(f"{what} is quantised, so its weights cannot move: give the module in floating point")
        if type(part).__name__ in ("FullyShardedDataParallel", "FSDPModule"):
            raise NetworkError(f"{what} is sharded, and a network needs all its weights: give the module that it wraps")
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
            # A flat vector cannot stand in for tensor subclasses (quantised weights, DTensor) or sparse layouts.
            if type(parameter.data) is not Tensor or parameter.layout is not torch.strided:
                raise NetworkError(
                    f"parameter {whole} of {what} is a {type(parameter.data).__name__} ({parameter.layout}), and a "
                    "network needs plain dense tensors: give the module with such parameters"
                )


def refuse_shared_memory(module: nn.Module) -> None:
    """Raise where a parameter's memory is used by anything else.

    Changing one would change the other, a link that copies, state_dicts and files do not keep.

    Args:
        module: the module.

    Raises:
        NetworkError: if the memory of a parameter overlaps with that of another parameter or of a tensor that is none.
    """
    parameters = {id(p): (f"parameter {name}", p) for name, p in module.named_parameters()}
    places: dict[int, list[tuple[int, int, str]]] = {}
    for what, parameter in parameters.values():
        places.setdefault(parameter.untyped_storage().data_ptr(), []).append((*_extent(parameter), what))
    for spans in places.values():
        # If any two spans overlap, so do two neighbours in this order.
        spans.sort()
        for (_, stop, one), (start, _, other) in pairwise(spans):
            if start < stop:
                raise NetworkError(
                    f"{one} and {other} lie in the same memory but are two parameters: assign one nn.Parameter to both "
                    "places to tie them"
                )
    for name, part in module.named_modules():
        # Tensors that a hook, such as that of the old weight_norm, computes anew before each pass are no stale copies.
        computed = {getattr(hook, "name", "") for hook in part._forward_pre_hooks.values()}
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
    """First byte, and byte after the last, of a strided tensor within its storage."""
    reach = sum((int(size) - 1) * int(stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset()) * tensor.element_size()
    return start, start + (reach + 1) * tensor.element_size() if tensor.numel() else start
