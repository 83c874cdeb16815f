"""Contents of network parts and of other objects, as plain values that do not depend on the process."""

from __future__ import annotations

import hashlib
import operator
import random
import subprocess
import threading
import warnings
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fipray.networks.modules import unwrapped

# Attributes of every module, which say nothing about a particular one.
_MACHINERY = vars(nn.Module()).keys() | {"_compiled_call_impl", "_is_torch_compile"}
_WITH_KEYWORDS = {
    "_forward_pre_hooks": "_forward_pre_hooks_with_kwargs",
    "_forward_hooks": "_forward_hooks_with_kwargs",
}
_HOOKS = (*_WITH_KEYWORDS, "_backward_pre_hooks", "_backward_hooks")
# Where and when Hugging Face made or loaded a configuration, and hashes that depend on the process.
_PROVENANCE = {"name_or_path", "_name_or_path", "_commit_hash", "transformers_version", "_original_object_hash"}
# Their state belongs to one process, or changes with every draw.
_OPAQUE: tuple[type, ...] = (threading.Thread, subprocess.Popen, torch.Stream, torch.Event)
_OPAQUE += (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


def parts_of(module: nn.Module) -> dict[str, nn.Module]:
    """Collect a module and its submodules by name, each once.

    Args:
        module: network; wrappers such as torch.compile's are replaced by the module that they wrap.

    Returns:
        Modules by their names as in `named_modules`; the root has the name "".
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()

    def look(name: str, part: nn.Module) -> None:
        # Not `named_modules()`: it passes through wrappers, and puts names such as `_orig_mod` before those of the
        # parts.
        part = unwrapped(part)
        if id(part) not in seen:
            seen.add(id(part))
            found[name] = part
            for key, child in part._modules.items():
                if child is not None:
                    look(f"{name}.{key}".removeprefix("."), child)

    look("", module)
    return found


def structure_of(parts: dict[str, nn.Module]) -> dict[str, Any]:
    """Describe which submodules, parameters and buffers each part has.

    Args:
        parts: modules by name, from `parts_of`.

    Returns:
        Submodules, parameters and buffers of each part, in order, by its name. Shared modules and tensors stand under
        their first name; tensors have a dtype and a shape, but no values, which are in the state_dict.
    """
    places = {id(part): name for name, part in parts.items()}
    tensors: dict[int, str] = {}

    def described(name: str, key: str, tensor: Tensor | None) -> Any:
        if tensor is None:
            return key, None
        shared = tensors.setdefault(id(tensor), f"{name}.{key}")
        return key, shared, str(tensor.dtype), tuple(tensor.shape)

    return {
        name: (
            [(key, None if child is None else places[id(unwrapped(child))]) for key, child in part._modules.items()],
            [described(name, key, parameter) for key, parameter in part._parameters.items()],
            [described(name, key, buffer) for key, buffer in part._buffers.items()],
        )
        for name, part in parts.items()
    }


def settings_of(part: nn.Module) -> tuple[dict[str, Any], ...]:
    """Collect what decides what a part computes beside its state_dict and its code.

    Args:
        part: module.

    Returns:
        Attributes, non-persistent buffers (which no state_dict contains) and hooks, each by name.
    """
    before = part._forward_pre_hooks.values()
    # torch.nn.utils.prune and the older weight_norm recompute such attributes before each pass.
    computed = {getattr(hook, name, None) for hook in before for name in ("name", "_tensor_name")}
    attributes = {key: each for key, each in vars(part).items() if key not in _MACHINERY | _PROVENANCE | computed}
    buffers = {key: part._buffers.get(key) for key in part._non_persistent_buffers_set}
    hooked = {name: list(_hooks(part, name)) for name in _HOOKS}
    return _sorted(attributes), _sorted(buffers), hooked


def _hooks(part: nn.Module, name: str) -> Iterator[tuple[Any, ...]]:
    """Hooks of one kind in order, without their IDs, which count all hooks of a process."""
    keyed = vars(part).get(_WITH_KEYWORDS.get(name, ""), ())
    for number, hook in vars(part).get(name, {}).items():
        yield hook, number in keyed


def held_by(value: Any, without: Collection[str] = ()) -> Any:
    """Collect what an object is made of, by the protocol of `copy` and `pickle`.

    Args:
        value: object.
        without: names of attributes to leave out.

    Returns:
        Constructor, arguments, state, items and pairs, as `__reduce_ex__` gives them. For objects that cannot be
        pickled, their attributes, and None without any or for files, threads and random generators.
    """
    if isinstance(value, _OPAQUE) or hasattr(value, "fileno"):
        return None
    if isinstance(value, torch.jit.ScriptFunction):
        return str(value.code)
    if isinstance(value, torch.fx.Graph):  # its nodes are a linked list, too deep to be walked recursively
        name = operator.attrgetter("name")
        return [
            (node.op, node.target, torch.fx.map_arg(node.args, name), torch.fx.map_arg(node.kwargs, name))
            for node in value.nodes
        ]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reduced = value.__reduce_ex__(4)
    except Exception:  # the class's own code may raise anything
        return _attributes(getattr(value, "__dict__", None), without)
    if not isinstance(reduced, tuple):
        return reduced
    # A reduction has two to six items; the sixth is a function that restores the state, and no content.
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    if isinstance(state, tuple) and len(state) == 2:  # attributes in __dict__ and in __slots__
        state = tuple(_attributes(each, without) for each in state)
    return make, arguments, _attributes(state, without), list(items or ()), list(pairs or ())


def _attributes(state: Any, without: Collection[str]) -> Any:
    if type(state) is not dict:
        return state
    return _sorted({key: each for key, each in state.items() if key not in _PROVENANCE and key not in without})


def _sorted(attributes: dict[Any, Any]) -> dict[Any, Any]:
    return dict(sorted(attributes.items(), key=lambda pair: str(pair[0])))


def array_in(value: Any) -> Any:
    """Split an array or tensor that is not plain numbers in memory into its parts.

    Args:
        value: numpy array or scalar, or tensor: masked, of objects, meta, nested, sparse or quantized.

    Returns:
        Parts, made of plain arrays and values; None for a plain array.
    """
    if isinstance(value, np.ma.MaskedArray):
        # Numbers under a mask are arbitrary, so the fill value takes their place.
        return "masked", value.filled(), np.ma.getmaskarray(value), value.fill_value
    if isinstance(value, (np.ndarray, np.generic)):
        # The memory of an array of objects holds addresses, which differ in every process.
        return [value.shape, value.tolist()] if value.dtype.hasobject else None
    if value.is_meta:
        return "meta", str(value.dtype), tuple(value.shape)
    if value.is_nested:
        return "nested", list(value.unbind())
    if value.layout == torch.sparse_coo:
        # Without coalescing, equal tensors can list their entries in different orders, and an entry in parts.
        whole = value.detach().coalesce()
        return "sparse", tuple(value.shape), whole.indices(), whole.values()
    if value.layout in (torch.sparse_csr, torch.sparse_bsr):
        return str(value.layout), tuple(value.shape), value.crow_indices(), value.col_indices(), value.values()
    if value.layout in (torch.sparse_csc, torch.sparse_bsc):
        return str(value.layout), tuple(value.shape), value.ccol_indices(), value.row_indices(), value.values()
    if value.is_quantized:
        return str(value.dtype), value.int_repr(), value.dequantize()
    return None if value.layout == torch.strided else (str(value.layout), value.to_dense())


def text_of_numbers(value: Any) -> str:
    """Write an array's dtype, shape and values as text.

    Args:
        value: plain array or tensor, on any device and in any memory layout.

    Returns:
        Text with the SHA-256 of the values.
    """
    if isinstance(value, Tensor):
        # Conjugates and negatives of complex tensors are lazy: their memory holds the numbers before the operation.
        flat = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        array, dtype = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0), str(value.dtype)
    else:
        # `dtype.str` of a structured array is its size alone, such as "|V8", without names and types of its fields.
        array, dtype = np.ascontiguousarray(value), repr(value.dtype.descr) if value.dtype.names else value.dtype.str
    return f"array {dtype} {tuple(value.shape)} {hashlib.sha256(array.tobytes()).hexdigest()}"
