"""Walk over the values that specs and modules are made of, in search of the user's own code."""

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
from fipray.study.code.contents import array_in, held_by, parts_of, settings_of, structure_of, text_of_numbers
from fipray.study.code.names import content, does, imported, kind, named
from fipray.study.code.ownership import is_own_module
from fipray.study.code.source import imports_in, names_in, state_of, text_of
from fipray.study.code.transient import transient_attributes

Code = dict[str, str]
"""Digests of the user's own code by "module:name"."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), range, slice, torch.dtype, torch.device)
_CONTAINERS = (SimpleNamespace, Namespace, deque, Decimal, Fraction)  # installed classes that hold the user's values
_MAX_DEPTH = 100  # levels of objects in objects
_MAX_LENGTH = 200  # characters of a text before its digest takes its place
_REFERENCE = re.compile(r"[\w.]+:[\w.]+")


class Walk:
    """Recursive walk over values that writes each as a text and collects the user's own code on the way.

    Attributes:
        found: digests of the user's own code by name.
        settings: texts of networks: the structure of every part, and the settings of parts without the user's own code.
    """

    def __init__(self) -> None:
        self.found: Code = {}
        self.settings: list[str] = []
        # Texts by the value's id and depth. The value is held too: Python reuses the ids of objects that are gone.
        self._texts: dict[tuple[int, bool], tuple[Any, str, bool]] = {}
        self._functions: dict[int, tuple[FunctionType, str, bool]] = {}
        self._open: dict[int, int] = {}  # ids of the values on the way from the root to the current one, with depth
        self._packages: set[str] = set()  # packages that define specs: their code counts even where it is installed
        self._places: dict[int, str] = {}  # ids of the parts of the networks around the current value, with their names
        self._transient: dict[type, frozenset[str]] = {}
        self._is_deep = False  # whether objects of installed classes are looked into, as they are within a network
        self._met_own = False  # whether the current value contains code of the user's own

    def spec(self, value: Any) -> None:
        """Collect the code of the classes that a spec is made of.

        Args:
            value: spec, module, `module:function`, or tuples, lists and mappings of them. Numbers are passed over:
                they are in the spec's JSON already.
        """
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
        """Name, part, structure and settings (as texts) of each part, and whether it contains the user's own code."""
        parts = parts_of(module)
        structure, described = structure_of(parts), []
        outside, is_deep, met_own = self._places, self._is_deep, self._met_own
        # A part that refers to another one, such as to its parent, is described by that one's place and not its
        # contents.
        self._places = outside | {id(part): f"part {len(outside)} {name}" for name, part in parts.items()}
        self._is_deep = True
        for name, part in parts.items():
            self._met_own = False
            cls = self._class(type(part))
            attributes, *others = settings_of(part)
            kept = {key: attributes[key] for key in attributes.keys() - self._transient_of(type(part))}
            settings = self.text((cls, dict(sorted(kept.items())), *others, self._mode(part)))
            described.append(
                (name, part, self.text((name, type(part).__qualname__, structure[name])), settings, self._met_own)
            )
        self._places, self._is_deep = outside, is_deep
        self._met_own = met_own or any(is_own for *_, is_own in described)
        return described

    def _transient_of(self, cls: type) -> frozenset[str]:
        if cls not in self._transient:
            self._transient[cls] = transient_attributes(cls)
        return self._transient[cls]

    def _mode(self, part: nn.Module) -> bool | None:
        """Training mode of a part; None unless the user's own code reads `self.training`."""
        own = [each for each in type(part).__mro__ if self._is_own(each.__module__)]
        functions = [each for cls in own for each in vars(cls).values() if isinstance(each, FunctionType)]
        return part.training if any("training" in names_in(each.__code__) for each in functions) else None

    def text(self, value: Any) -> str:
        """Write a value as text and collect the code that it depends on.

        Args:
            value: anything.

        Returns:
            Text that is the same in every process.
        """
        # By the exact type: an instance of a subclass may hold more than its plain value.
        if type(value) in _PLAIN:
            return f"{type(value).__name__} {value!r}"
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if place := self._places.get(id(value)):
            return place
        if id(value) in self._open:
            return f"itself, {len(self._open) - self._open[id(value)]} further out"  # as in a list that contains itself
        key = (id(value), self._is_deep)
        if key not in self._texts:
            met_own, self._met_own = self._met_own, False
            self._open[id(value)] = len(self._open)
            try:
                text = self._text(value) if len(self._open) < _MAX_DEPTH else f"a {named(type(value))}"
            finally:
                del self._open[id(value)]
            if len(text) > _MAX_LENGTH:  # else texts grow exponentially where values are shared
                text = f"{type(value).__name__} {digest(text)}"
            self._texts[key] = value, text, self._met_own
            self._met_own |= met_own
        self._met_own |= self._texts[key][2]
        return self._texts[key][1]

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
                # Sorted as texts: hashes of strings, and with them the order of a set, differ in every process.
                return f"{kind(value)} {sorted(map(self.text, value))}{self._besides(value)}"
            case dict() | MappingProxyType():
                # In the order of insertion, which code that iterates over the dictionary can depend on.
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
        """Attributes and default factory of a container, beside its items."""
        more = getattr(value, "__dict__", None), getattr(value, "default_factory", None)
        return f" {self.text(more)}" if any(more) else ""

    def _object(self, value: Any) -> str:
        """Text of any other object: its class, and its contents where these are the user's or a network's."""
        cls = type(value)
        if isinstance(value, nn.Module):
            parts = [(structure, settings) for _, _, structure, settings, _ in self._network(value)]
            return f"{named(cls)} {self.text((parts, dict(value.state_dict())))}"
        is_seen_through = is_dataclass(cls) or self._is_own(cls.__module__) or issubclass(cls, _CONTAINERS)
        if cls.__module__ == "torch._ops" or not (is_seen_through or self._is_deep):
            name = getattr(value, "__name__", "")  # numpy's ufuncs have one
            return f"a {named(cls)} {name if isinstance(name, str) else ''}"
        return f"{self._class(cls)} {self.text(held_by(value, self._transient_of(cls)))}"

    def _class(self, cls: type) -> str:
        name, own = registered_name(cls) or named(cls), vars(cls)
        if not self._is_own(cls.__module__):
            for base in cls.__mro__[1:]:  # a parametrization derives an installed class from one's own
                if self._is_own(base.__module__):
                    self._class(base)
            return name
        self._met_own = True
        if name in self.found:
            return name
        self.found[name] = ""  # ends the recursion where its functions name the class
        made = {each.name for each in fields(cls)} if is_dataclass(cls) else set()
        # A dataclass's field `version` is a setting of its instances, not the class's statement about its code.
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
            text = self._own_function(function) if self._met_own else self._installed_function(function)
            self._functions[id(function)] = function, text, self._met_own
            self._met_own |= met_own
        self._met_own |= self._functions[id(function)][2]
        return self._functions[id(function)][1]

    def _installed_function(self, function: FunctionType) -> str:
        if callable(inner := getattr(function, "_torchdynamo_orig_callable", None)):
            return self.text(inner)  # torch.compile changes how a function runs, not what it computes
        held = [content(cell) for cell in function.__closure__ or () if self._is_deep]
        return f"{named(function)} {self.text(held)}" if held else named(function)

    def _own_function(self, function: FunctionType) -> str:
        name, source = named(function), text_of(function)
        key = f"{name} {digest(source)}" if "<" in name else name  # all lambdas have one name
        self._functions[id(function)] = function, key, True  # ends the recursion where functions call each other
        state = state_of(function)
        held = dict(zip(function.__code__.co_freevars, map(content, function.__closure__ or ()), strict=True))
        held = {name: each for name, each in held.items() if name not in state | {"__class__"}}
        attributes = {name: each for name, each in vars(function).items() if name != "__wrapped__"}
        values = (
            function.__defaults__,
            function.__kwdefaults__,
            held,
            getattr(function, "__wrapped__", None),
            attributes,
        )
        texts = [self.text(each) for each in values]
        # Chained: closures of one factory have one name, but may hold different values.
        self.found[key] = digest(self.found.get(key, ""), source, *texts)
        names, is_deep, self._is_deep = names_in(function.__code__), self._is_deep, False
        for looked_up in sorted(names & function.__globals__.keys() - state):
            self._global(function.__module__, looked_up, function.__globals__[looked_up], names)
        for module_name, level in imports_in(function):
            if module := imported(module_name, level, function.__globals__.get("__package__")):
                self._global(function.__module__, module.__name__, module, names)
        self._is_deep = is_deep
        return f"{key} {digest(*texts)}" if any(values) else key

    def _global(self, holder: str, name: str, value: Any, names: set[str]) -> None:
        """Collect a global that a function looks up; of a module, the names that it may look up there."""
        if isinstance(value, ModuleType):
            for each in sorted(names & vars(value).keys() - {name}) if self._is_own(value.__name__) else ():
                self._global(value.__name__, each, vars(value)[each], names - {name})
            return
        text = self.text(value)
        # A class or function of that module has an entry already, under the same name.
        if text.partition(" ")[0] != f"{holder}:{name}":
            self.found[f"{holder}:{name}"] = digest(text)

    def _is_own(self, module: str) -> bool:
        top = module.partition(".")[0]
        return is_own_module(module) or (top in self._packages and top not in ("fipray", "torch"))
