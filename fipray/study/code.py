"""What code of the user's own does, as digests: part of the ids of what depends on it.

Of every class of the user's own that a spec or a module is made of, its functions, those of the user's own that they
call, and the constants that they look up, by name. A class may say `version = "2"` instead: then nothing else of it
counts. Nothing is said of fipray's own classes and of installed packages.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import BuiltinFunctionType, CellType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from fipray.registry import registered_name
from fipray.study.canonical import digest
from fipray.study.own import is_own_file, is_own_module
from fipray.study.source import imports_in, names_in, state_of, text_of

Code = dict[str, str]  # digests by "module:name"

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), range, slice, torch.dtype, torch.device)
_CONTAINERS = (tuple, list, set, frozenset, dict, functools.partial)
# Made by Python and dataclasses of what else is in a class.
_MADE = {"__eq__", "__hash__", "__repr__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__"}
_MADE |= {"__replace__", "__getstate__", "__setstate__", "__annotate__", "__annotate_func__"}
_REFERENCE = re.compile(r"[\w.]+:[\w.]+")


def code_of(value: Any) -> Code:
    """The code of the user's own that a spec, a module, or a part of one stands for, by the names of its parts."""
    walk = _Walk()
    walk.spec(value)
    return walk.found


def texts_of(code: Code) -> tuple[str, ...]:
    """The same as texts to digest; none where there is no code of the user's own."""
    return tuple(f"{name} {each}" for name, each in sorted(code.items()))


class _Walk:
    def __init__(self) -> None:
        self.found: Code = {}
        self._seen: dict[int, Any] = {}  # by id, which is another's once they are gone
        self._open: set[int] = set()  # containers that are being told
        self._packages: set[str] = set()  # of the classes of specs, also where they are installed

    def spec(self, value: Any) -> None:
        """Take in the classes that a spec is made of; its numbers are in its JSON."""
        if isinstance(value, nn.Module):
            self._network(value)
        elif isinstance(value, (tuple, list)):
            for item in value:
                self.spec(item)
        elif isinstance(value, Mapping):
            self.spec(tuple(value.values()))
        elif isinstance(value, str):
            if _REFERENCE.fullmatch(value):
                module, _, name = value.partition(":")
                self.text(getattr(sys.modules.get(module), name, None))
        elif is_dataclass(value) and not isinstance(value, type):
            self._packages.add(type(value).__module__.partition(".")[0])
            self.text(type(value))
            for each in fields(value):
                self.spec(getattr(value, each.name))

    def _network(self, module: nn.Module) -> None:
        """The classes of a network's parts, functions that are hooked to them, and settings where they are own."""
        for name, part in module.named_modules():
            self.text(type(part))
            for each in (*part._forward_pre_hooks.values(), *part._forward_hooks.values(), *vars(part).values()):
                if isinstance(each, (FunctionType, MethodType, functools.partial)):
                    self.text(each)
            if self._is_own(type(part).__module__):
                plain = {key: each for key, each in vars(part).items() if _is_plain(each) and key != "training"}
                self.found[f"{_named(type(part))} {name or 'the network'}"] = digest(self.text(plain))

    def text(self, value: Any) -> str:
        """`value` as a text that is the same in every process; code that it stands on is taken in."""
        if id(value) in self._open:
            return "itself"  # a list that holds itself
        if not isinstance(value, _CONTAINERS):
            return self._text(value)
        self._open.add(id(value))
        try:
            return self._text(value)
        finally:
            self._open.remove(id(value))

    def _text(self, value: Any) -> str:
        match value:
            case enum.Enum():
                return f"{self.text(type(value))}.{value.name}"
            case np.ndarray() | np.generic() | torch.Tensor():
                return _text_of_array(value)
            case PurePath():
                return f"path {value}"
            case tuple() | list():
                return f"{type(value).__name__} [{', '.join(map(self.text, value))}]"
            case set() | frozenset():
                return f"set {sorted(map(self.text, value))}"
            case dict() | MappingProxyType():
                return f"mapping {sorted((self.text(key), self.text(each)) for key, each in value.items())}"
            case re.Pattern():
                return f"pattern {value.pattern!r} {value.flags}"
            case functools.partial():
                return f"partial {self.text((value.func, value.args, value.keywords))}"
            case MethodType() | staticmethod() | classmethod():
                return self.text(value.__func__)
            case property():
                return self.text((value.fget, value.fset))
            case functools.cached_property():
                return self.text(value.func)
            case FunctionType():
                return self._function(value)
            case type():
                return self._class(value)
            case ModuleType() | BuiltinFunctionType():
                return _named(value)
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        wrapped = getattr(value, "__wrapped__", None)  # as of functools.lru_cache
        return self.text(wrapped) if isinstance(wrapped, FunctionType) else self._object(value)

    def _object(self, value: Any) -> str:
        """Any other object: its class, and what it holds where that is own, or a network's."""
        cls = type(value)
        if not (is_dataclass(cls) or self._is_own(cls.__module__) or isinstance(value, nn.Module)):
            name = getattr(value, "__name__", "")  # as numpy's functions have
            return f"a {_named(cls)} {name if isinstance(name, str) else ''}"
        if id(value) in self._seen:
            return f"a {_named(cls)}"
        self._seen[id(value)] = value
        if isinstance(value, nn.Module):
            self._network(value)
            state = {name: each for name, each in value.state_dict().items() if isinstance(each, torch.Tensor)}
            return f"{_named(cls)} {self.text(state)}"
        return f"{self.text(cls)} {self.text(dict(getattr(value, '__dict__', {})))}"

    def _class(self, cls: type) -> str:
        name, own = registered_name(cls) or _named(cls), vars(cls)
        if not self._is_own(cls.__module__) or name in self.found:
            return name
        self.found[name] = ""  # meanwhile its functions may name it
        made = {each.name for each in fields(cls)} if is_dataclass(cls) else set()
        if isinstance(own.get("version"), (int, float, str)) and "version" not in made:
            self.found[name] = digest(f"version {own['version']!r}")
            return name
        parts = {key: self.text(each) for key, each in own.items() if key not in made and _does(key, each)}
        if issubclass(cls, enum.Enum):
            parts = {each.name: self.text(each.value) for each in cls}
        self.found[name] = digest(repr((sorted(parts.items()), [self._class(base) for base in cls.__mro__[1:]])))
        return name

    def _function(self, function: FunctionType) -> str:
        name = _named(function)
        if not self._is_own(function.__module__ or "__main__"):
            return name
        source = text_of(function)
        key = f"{name} {digest(source)}" if "<" in name else name  # many are called <lambda>
        if id(function) in self._seen:
            return key
        self._seen[id(function)] = function
        held = dict(zip(function.__code__.co_freevars, map(_content, function.__closure__ or ()), strict=True))
        held.pop("__class__", None)
        told = (function.__defaults__, function.__kwdefaults__, held, getattr(function, "__wrapped__", None))
        self.found[key] = digest(self.found.get(key, ""), source, *map(self.text, told))
        names = names_in(function.__code__)
        for looked_up in sorted(names & function.__globals__.keys() - state_of(function)):
            self._global(function.__module__, looked_up, function.__globals__[looked_up], names)
        for imported, level in imports_in(function):
            if module := _imported(imported, level, function.__globals__.get("__package__")):
                self._global(function.__module__, module.__name__, module, names)
        return key

    def _global(self, holder: str, name: str, value: Any, names: set[str]) -> None:
        """What a function finds by a name; of a module of the user's own, what it may look up there."""
        if isinstance(value, ModuleType):
            for each in sorted(names & vars(value).keys() - {name}) if self._is_own(value.__name__) else ():
                self._global(value.__name__, each, vars(value)[each], names - {name})
            return
        text = self.text(value)
        if text != f"{holder}:{name}":
            self.found[f"{holder}:{name}"] = digest(text)

    def _is_own(self, module: str) -> bool:
        top = module.partition(".")[0]
        return is_own_module(module) or (top in self._packages and top not in ("fipray", "torch"))


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _does(key: str, value: Any) -> bool:
    """Whether an entry of a class says what the class does, and was not made by Python or a dataclass."""
    if key in _MADE or key.startswith("_abc_"):
        return False
    if not key.startswith("__"):
        return True
    is_generated = isinstance(value, FunctionType) and value.__code__.co_filename == "<string>" and key == "__init__"
    return isinstance(value, (FunctionType, staticmethod, classmethod)) and not is_generated


def _named(value: Any) -> str:
    module = getattr(value, "__module__", None) or type(value).__module__
    return f"{module}:{getattr(value, '__qualname__', None) or getattr(value, '__name__', type(value).__qualname__)}"


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _text_of_array(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta:
            return f"tensor {value.dtype} {tuple(value.shape)} {value.layout}"
        flat = value.detach().cpu().contiguous().reshape(-1)
        array, dtype = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0), str(value.dtype)
    else:
        array, dtype = np.ascontiguousarray(value), value.dtype.str
    content = repr(value.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    return f"array {dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}"


def _imported(name: str, level: int, package: str | None) -> ModuleType | None:
    """A module of the user's own that a function imports when it is called; None for any other."""
    try:
        full = importlib.util.resolve_name("." * level + name, package) if level else name
        spec = importlib.util.find_spec(full)
        is_own = spec and spec.origin and is_own_file(spec.origin) and full.partition(".")[0] != "fipray"
        return importlib.import_module(full) if is_own else None
    except Exception:  # whatever the module's own code raises: the function will meet it
        return None
