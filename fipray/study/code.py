"""What code of the user's own does, as digests: part of the ids of what depends on it.

Of every class of the user's own that a spec or a module is made of, its functions, those of the user's own that they
call, and the constants that they look up, by name. A class may say `version = "2"` instead: then nothing else of it
counts. Nothing is said of fipray's own classes and of installed packages, except what a network's parts hold: a number
of heads, a hook, an activation decide what it computes as its weights do, whoever wrote the class.
"""

from __future__ import annotations

import enum
import functools
import re
import sys
import weakref
from argparse import Namespace
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import numpy as np
import torch
from torch import nn

from fipray.registry import registered_name
from fipray.study.canonical import digest
from fipray.study.contents import array_in, held_by, parts_of, settings_of, structure_of, text_of_numbers
from fipray.study.left import left_by_passes
from fipray.study.members import content, does, imported, kind, named
from fipray.study.own import is_own_module
from fipray.study.source import imports_in, names_in, state_of, text_of

Code = dict[str, str]  # digests by "module:name"

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), range, slice, torch.dtype, torch.device)
_HOLDERS = (SimpleNamespace, Namespace, deque, Decimal, Fraction)  # installed classes of what is the user's own
_DEEPEST, _LONGEST = 100, 200  # levels of objects in objects, and characters
_REFERENCE = re.compile(r"[\w.]+:[\w.]+")


def code_of(value: Any) -> Code:
    """The code of the user's own that a spec, a module, or a part of one stands for, by the names of its parts."""
    walk = _Walk()
    walk.spec(value)
    return walk.found


def architecture_of(module: nn.Module) -> str:
    """16 hexadecimal digits for what decides about a network beside its weights and code of the user's own: its parts,
    their settings and hooks, and which tensors they share.
    """
    walk = _Walk()
    walk.spec(module)
    return digest(*walk.settings)


def texts_of(code: Code) -> tuple[str, ...]:
    """The same as texts to digest; none where there is no code of the user's own."""
    return tuple(f"{name} {each}" for name, each in sorted(code.items()))


class _Walk:
    def __init__(self) -> None:
        self.found: Code = {}
        self.settings: list[str] = []  # of networks, where no code of the user's own is in them
        self._told: dict[tuple[int, bool], tuple[Any, str, bool]] = {}  # by id, which is another's once they are gone
        self._functions: dict[int, tuple[FunctionType, str, bool]] = {}
        self._open: dict[int, int] = {}  # what is being told, and how far in it is
        self._packages: set[str] = set()  # of the classes of specs, also where they are installed
        self._places: dict[int, str] = {}  # of the parts of the networks that are being told
        self._left: dict[type, frozenset[str]] = {}
        self._is_deep = False  # whether also objects of installed classes are looked into
        self._met_own = False

    def spec(self, value: Any) -> None:
        """Take in the classes that a spec is made of; its numbers are in its JSON."""
        if isinstance(value, nn.Module):
            for name, part, structure, settings, is_own in self._network(value):
                self.settings.append(structure)
                if is_own:
                    self.found[f"{named(type(part))} {name or 'the network'}"] = digest(settings)
                else:
                    self.settings.append(settings)
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

    def _network(self, module: nn.Module) -> list[tuple[str, nn.Module, str, str, bool]]:
        """Of each part of a network its name, its structure and its settings as texts, and whether code of the user's
        own is in it.
        """
        parts = parts_of(module)
        structure, told = structure_of(parts), []
        outside, is_deep, met_own = self._places, self._is_deep, self._met_own
        self._places = outside | {id(part): f"part {len(outside)} {name}" for name, part in parts.items()}
        self._is_deep = True
        for name, part in parts.items():
            self._met_own = False
            cls = self._class(type(part))
            attributes, *others = settings_of(part)
            kept = {key: attributes[key] for key in attributes.keys() - self._left_by(type(part))}
            settings = self.text((cls, dict(sorted(kept.items())), *others, self._mode(part)))
            told.append(
                (name, part, self.text((name, type(part).__qualname__, structure[name])), settings, self._met_own)
            )
        self._places, self._is_deep = outside, is_deep
        self._met_own = met_own or any(is_own for *_, is_own in told)
        return told

    def _left_by(self, cls: type) -> frozenset[str]:
        """The attributes of a class that its passes only leave something in."""
        if cls not in self._left:
            self._left[cls] = left_by_passes(cls)
        return self._left[cls]

    def _mode(self, part: nn.Module) -> bool | None:
        """Whether a part is in training mode, where code of the user's own asks for it."""
        own = [each for each in type(part).__mro__ if self._is_own(each.__module__)]
        functions = [each for cls in own for each in vars(cls).values() if isinstance(each, FunctionType)]
        return part.training if any("training" in names_in(each.__code__) for each in functions) else None

    def text(self, value: Any) -> str:
        """`value` as a text that is the same in every process; code that it stands on is taken in."""
        if type(value) in _PLAIN:
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if place := self._places.get(id(value)):
            return place
        if id(value) in self._open:
            return f"itself, {len(self._open) - self._open[id(value)]} further out"  # a list that holds itself
        key = (id(value), self._is_deep)
        if key not in self._told:
            met_own, self._met_own = self._met_own, False
            self._open[id(value)] = len(self._open)
            try:
                text = self._text(value) if len(self._open) < _DEEPEST else f"a {named(type(value))}"
            finally:
                del self._open[id(value)]
            if len(text) > _LONGEST:  # what is in many places is not to be told as many times
                text = f"{type(value).__name__} {digest(text)}"
            self._told[key] = value, text, self._met_own
            self._met_own |= met_own
        self._met_own |= self._told[key][2]
        return self._told[key][1]

    def _text(self, value: Any) -> str:
        match value:
            case enum.Enum():
                return f"{self.text(type(value))}.{value.name}"
            case np.ndarray() | np.generic() | torch.Tensor():
                inside = array_in(value)
                return text_of_numbers(value) if inside is None else f"array {self.text(inside)}"
            case PurePath():
                return f"path {value}"
            case tuple() | list():
                return f"{kind(value)} [{', '.join(map(self.text, value))}]{self._besides(value)}"
            case set() | frozenset():
                return f"{kind(value)} {sorted(map(self.text, value))}{self._besides(value)}"
            case dict() | MappingProxyType():
                pairs = [(self.text(key), self.text(each)) for key, each in value.items()]
                return f"{kind(value)} {pairs}{self._besides(value)}"
            case re.Pattern():
                return f"pattern {value.pattern!r} {value.flags}"
            case functools.partial():
                return f"partial {self.text((value.func, value.args, value.keywords))}"
            case MethodType():
                return f"method {self.text(value.__func__)} of {self.text(value.__self__)}"
            case staticmethod() | classmethod():
                return self.text(value.__func__)
            case property():
                return self.text((value.fget, value.fset))
            case functools.cached_property():
                return self.text(value.func)
            case weakref.ref():
                return f"reference to {self.text(value())}"
            case BuiltinFunctionType():
                of = value.__self__
                bound = not isinstance(of, (type(None), type, ModuleType)) and self._is_deep
                return f"{named(value)} of {self.text(of)}" if bound else named(value)
            case ModuleType():
                return named(value)
        wrapped = getattr(value, "__wrapped__", None)  # as of functools.lru_cache
        return self.text(wrapped) if isinstance(wrapped, FunctionType) else self._object(value)

    def _besides(self, value: Any) -> str:
        """What a container holds beside its items."""
        more = getattr(value, "__dict__", None), getattr(value, "default_factory", None)
        return f" {self.text(more)}" if any(more) else ""

    def _object(self, value: Any) -> str:
        """Any other object: its class, and what it holds where that is own, or a network's."""
        cls = type(value)
        if isinstance(value, nn.Module):
            parts = [(structure, settings) for _, _, structure, settings, _ in self._network(value)]
            return f"{named(cls)} {self.text((parts, dict(value.state_dict())))}"
        is_seen_through = is_dataclass(cls) or self._is_own(cls.__module__) or issubclass(cls, _HOLDERS)
        if cls.__module__ == "torch._ops" or not (is_seen_through or self._is_deep):
            name = getattr(value, "__name__", "")  # as numpy's functions have
            return f"a {named(cls)} {name if isinstance(name, str) else ''}"
        return f"{self._class(cls)} {self.text(held_by(value, self._left_by(cls)))}"

    def _class(self, cls: type) -> str:
        name, own = registered_name(cls) or named(cls), vars(cls)
        if not self._is_own(cls.__module__):
            for base in cls.__mro__[1:]:  # as a parametrization makes an installed class of one's own
                if self._is_own(base.__module__):
                    self._class(base)
            return name
        self._met_own = True
        if name in self.found:
            return name
        self.found[name] = ""  # meanwhile its functions may name it
        made = {each.name for each in fields(cls)} if is_dataclass(cls) else set()
        if isinstance(own.get("version"), (int, float, str)) and "version" not in made:
            self.found[name] = digest(f"version {own['version']!r}")
            return name
        parts = {key: self.text(each) for key, each in own.items() if key not in made and does(key, each)}
        if issubclass(cls, enum.Enum):
            parts = {each.name: self.text(each.value) for each in cls}
        self.found[name] = digest(repr((sorted(parts.items()), [self._class(base) for base in cls.__mro__[1:]])))
        return name

    def _function(self, function: FunctionType) -> str:
        if id(function) not in self._functions:
            met_own, self._met_own = self._met_own, self._is_own(function.__module__ or "__main__")
            self._functions[id(function)] = function, named(function), self._met_own
            told = self._own_function(function) if self._met_own else self._installed_function(function)
            self._functions[id(function)] = function, told, self._met_own
            self._met_own |= met_own
        self._met_own |= self._functions[id(function)][2]
        return self._functions[id(function)][1]

    def _installed_function(self, function: FunctionType) -> str:
        if callable(inner := getattr(function, "_torchdynamo_orig_callable", None)):
            return self.text(inner)  # torch.compile changes how it is run
        held = [content(cell) for cell in function.__closure__ or () if self._is_deep]
        return f"{named(function)} {self.text(held)}" if held else named(function)

    def _own_function(self, function: FunctionType) -> str:
        name, source = named(function), text_of(function)
        key = f"{name} {digest(source)}" if "<" in name else name  # many are called <lambda>
        self._functions[id(function)] = function, key, True  # meanwhile others may name it
        state = state_of(function)
        held = dict(zip(function.__code__.co_freevars, map(content, function.__closure__ or ()), strict=True))
        held = {name: each for name, each in held.items() if name not in state | {"__class__"}}
        attributes = {name: each for name, each in vars(function).items() if name != "__wrapped__"}
        told = (
            function.__defaults__,
            function.__kwdefaults__,
            held,
            getattr(function, "__wrapped__", None),
            attributes,
        )
        said = [self.text(each) for each in told]
        self.found[key] = digest(self.found.get(key, ""), source, *said)
        names, is_deep, self._is_deep = names_in(function.__code__), self._is_deep, False
        for looked_up in sorted(names & function.__globals__.keys() - state):
            self._global(function.__module__, looked_up, function.__globals__[looked_up], names)
        for module_name, level in imports_in(function):
            if module := imported(module_name, level, function.__globals__.get("__package__")):
                self._global(function.__module__, module.__name__, module, names)
        self._is_deep = is_deep
        return f"{key} {digest(*said)}" if any(told) else key

    def _global(self, holder: str, name: str, value: Any, names: set[str]) -> None:
        """What a function finds by a name; of a module of the user's own, what it may look up there."""
        if isinstance(value, ModuleType):
            for each in sorted(names & vars(value).keys() - {name}) if self._is_own(value.__name__) else ():
                self._global(value.__name__, each, vars(value)[each], names - {name})
            return
        text = self.text(value)
        if text.partition(" ")[0] != f"{holder}:{name}":
            self.found[f"{holder}:{name}"] = digest(text)

    def _is_own(self, module: str) -> bool:
        top = module.partition(".")[0]
        return is_own_module(module) or (top in self._packages and top not in ("fipray", "torch"))
