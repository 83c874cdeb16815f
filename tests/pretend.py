"""A pretend GPU: tensors that compute on the CPU, report a GPU as their device, and behave as a GPU's do.

    with pretend.gpu() as gpu:
        network = network.to(gpu.device)
        ...
    assert gpu.counts.syncs <= 2

Operations that mix devices raise, as they would on a GPU, and so do draws from a generator of another device. Kernel
launches, host synchronisations and copies between the devices are counted. Where there is a real GPU it is used, and
counted by the same mode.

To torch's C++ code the tensors are on the device `meta`, which exists everywhere: options of tensors made inside torch
carry it, and autograd runs in the caller's thread. To Python code it is called `cuda:0`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_NAME, _INSIDE, _HOST = torch.device("cuda:0"), torch.device("meta"), torch.device("cpu")
_aten = torch.ops.aten

# Their result on the host, its shape or an error depend on values of the device.
_WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_consecutive", "_unique2"),
    *("_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq", "_linalg_check_errors", "_linalg_solve_ex"),
    *("linalg_cholesky", "linalg_inv", "repeat_interleave", "bincount"),
}
# They launch nothing: views, and what is known without the device.
_FREE = {"detach", "alias", "lift_fresh", "_local_scalar_dense", "empty", "empty_like", "empty_strided", "new_empty"}


@dataclass
class Counts:
    """What a GPU had to do.

    Args:
        launches: operations that launch kernels.
        syncs: operations for which the host waits.
        to_device: bytes copied from the host to the device.
        to_host: bytes copied back.
        waits: for each synchronisation its operation, and the innermost line of the package that asked for it.
    """

    launches: int = 0
    syncs: int = 0
    to_device: int = 0
    to_host: int = 0
    waits: list[str] = field(default_factory=list)

    def reset(self) -> None:
        """Begin to count anew."""
        self.launches = self.syncs = self.to_device = self.to_host = 0
        self.waits.clear()


class _Tensor(Tensor):
    """Tensor whose numbers are those of a tensor on the CPU."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> _Tensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=_INSIDE,
        )
        made.host = host
        return cast(_Tensor, made)

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of the pretend GPU outside `with pretend.gpu()`")

    def __repr__(self, **_: Any) -> str:
        return f"{self.host!r} on {_NAME}"


class Generator(torch.Generator):
    """Generator that remembers the device for which it was made."""

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        made = super().__new__(cls)
        made.named = torch.device(device)
        return made

    named: torch.device

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return _NAME if self.named.type == _NAME.type else self.named


class _Names(TorchFunctionMode):
    """Calls the device by its name in Python, and by another in C++."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _inwards(args), _inwards(kwargs or {})
        # here, because generators reach dispatch modes without the type that they have in Python
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, torch._C.Generator):
                _check_generator(func, one, args, kwargs)
        if func in (torch.tensor, torch.as_tensor, Tensor.new_tensor):
            # torch makes no data on `meta`: made on the host, and copied as it would be
            device = kwargs.pop("device", None)
            if device is None:
                device = args[0].device if func is Tensor.new_tensor else None
            if func is Tensor.new_tensor:
                func, kwargs = torch.tensor, {"dtype": args[0].dtype, **kwargs}
                args = args[1:]
            kwargs = {name: value for name, value in kwargs.items() if value is not None}
            if isinstance(args[0], Tensor) and func is torch.as_tensor:
                return args[0].to(device=device or args[0].device, dtype=kwargs.get("dtype", args[0].dtype))
            found = func(*args, **kwargs)
            return found if device is None else found.to(device)
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        if func in (Tensor.untyped_storage, Tensor.data_ptr) and isinstance(args[0], _Tensor):
            return func(args[0].host)
        found = func(*args, **kwargs)
        if func in (Tensor.is_meta.__get__, Tensor.is_cuda.__get__):
            return not found if isinstance(args[0], Tensor) and args[0].device.type == "meta" else found
        return _NAME if isinstance(found, torch.device) and found.type == "meta" else found


def _check_generator(func: Any, generator: torch._C.Generator, args: Any, kwargs: Any) -> None:
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    target = tensors[0].device if tensors else torch.device(kwargs.get("device") or _HOST)
    if (target.type != "cpu") != (generator.device.type != "cpu"):
        name, wanted = func.__name__, _HOST if target.type == "cpu" else _NAME
        raise RuntimeError(f"{name}: expected a generator on {wanted}, and it is on {generator.device}")


def _inwards(given: Any) -> Any:
    def one(value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == _NAME.type:
            return _INSIDE
        return _INSIDE if isinstance(value, str) and value.split(":")[0] == _NAME.type else value

    return tree_map(one, given)


class GPU(TorchDispatchMode):
    """Runs and counts the operations.

    Args:
        pretends: whether the device is none.
    """

    def __init__(self, pretends: bool) -> None:
        super().__init__()
        self.pretends, self.device, self.counts = pretends, _NAME, Counts()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first operation imports torch's compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_leaves((args, kwargs))
        tensors = [one for one in leaves if isinstance(one, Tensor)]
        here = [self._is_here(one) for one in tensors]
        target = kwargs.get("device")
        is_here = any(here) if target is None else torch.device(target).type in ("meta", "cuda")
        name = func._schema.name.partition("::")[2]
        if any(here) or is_here:
            self._count(name, func, args, kwargs, tensors, is_here)
            self._refuse(name, args, tensors, here, leaves, is_here)
        if not self.pretends:
            return func(*args, **kwargs)
        if target is not None and is_here:
            kwargs["device"] = _HOST
        wrappers = {id(one.host): one for one in tensors if isinstance(one, _Tensor)}
        found = func(*tree_map(_host, args), **tree_map(_host, kwargs))

        def outwards(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) in wrappers:  # in place
                return wrappers[id(value)]
            return _Tensor(value) if is_here else value

        if name == "copy_":
            return args[0]
        return tree_map(outwards, found)

    def _is_here(self, tensor: Tensor) -> bool:
        return isinstance(tensor, _Tensor) if self.pretends else tensor.is_cuda

    def _count(
        self, name: str, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], is_here: bool
    ) -> None:
        counts, crosses, waits = self.counts, 0, name in _WAITS
        if name in ("_to_copy", "copy_"):
            source, there = args[-1 if name == "_to_copy" else 1], is_here if name == "_to_copy" else self._is_here(args[0])
            crosses = source.numel() * source.element_size() if self._is_here(source) != there else 0
            waits = bool(crosses) and not (kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,)))
            counts.to_device += crosses if there else 0
            counts.to_host += 0 if there else crosses
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            for one in args[1]:
                if one is None:
                    continue
                waits = waits or one.dtype in (torch.bool, torch.uint8) or not self._is_here(one)
                if not self._is_here(one):
                    counts.to_device += one.numel() * one.element_size()
        if waits:
            counts.syncs += 1
            counts.waits.append(f"{name} {_asked_by()}")
        if not (func.is_view or name in _FREE or crosses):
            counts.launches += 1

    def _refuse(
        self, name: str, args: Any, tensors: list[Tensor], here: list[bool], leaves: list[Any], is_here: bool
    ) -> None:
        if name in ("copy_", "_to_copy"):
            return
        indices = {id(one) for one in args[1] if one is not None} if name.startswith(("index", "_index_put")) and len(args) > 1 and isinstance(args[1], (list, tuple)) else set()
        for one, is_on in zip(tensors, here, strict=True):
            if any(here) and not is_on and one.dim() and id(one) not in indices:
                raise RuntimeError(
                    f"{name}: expected all tensors on one device, and there are {_NAME} and {one.device}, "
                    f"one there of shape {tuple(one.shape)}"
                )


def _of_host(name: str) -> Callable[..., Any]:
    """A function of `torch.random`, with the arguments of its namesake in `torch.cuda`."""
    return lambda *given: getattr(torch.random, name)(*(one for one in given if isinstance(one, Tensor)))


def _host(value: Any) -> Any:
    return value.host if isinstance(value, _Tensor) else value


def _asked_by() -> str:
    for frame in reversed(traceback.extract_stack()):
        if "/fipray/" in frame.filename:
            return f"{frame.filename.rpartition('/fipray/')[2]}:{frame.lineno} {frame.line}"
    return "outside the package"


@contextmanager
def gpu() -> Iterator[GPU]:
    """Use a GPU: the real one where there is one."""
    found = GPU(pretends=not torch.cuda.is_available())
    with ExitStack() as stack:
        if found.pretends:
            # torch makes generators only for devices that there are
            stack.enter_context(mock.patch.object(torch, "Generator", Generator))
            for name in ("get_rng_state", "set_rng_state"):
                stack.enter_context(mock.patch.object(torch.cuda, name, _of_host(name)))
            stack.enter_context(_Names())
        stack.enter_context(found)
        yield found
