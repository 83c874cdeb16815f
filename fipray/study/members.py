"""Names of classes and functions, what is in a class, and what a function reaches by its cells and imports."""

from __future__ import annotations

import importlib
import importlib.util
from types import CellType, FunctionType, ModuleType
from typing import Any

from fipray.study.own import is_own_file

# Made by Python and dataclasses of what else is in a class.
_MADE = {"__eq__", "__hash__", "__repr__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__"}
_MADE |= {"__replace__", "__getstate__", "__setstate__", "__annotate__", "__annotate_func__"}


def named(value: Any) -> str:
    module = getattr(value, "__module__", None) or type(value).__module__
    return f"{module}:{getattr(value, '__qualname__', None) or getattr(value, '__name__', type(value).__qualname__)}"


def kind(value: Any) -> str:
    """A container's class, in short where it is Python's own."""
    return named(type(value)).removeprefix("builtins:")


def content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def does(key: str, value: Any) -> bool:
    """Whether an entry of a class says what the class does, and was not made by Python or a dataclass."""
    if key in _MADE or key.startswith("_abc_"):
        return False
    if not key.startswith("__"):
        return True
    is_generated = isinstance(value, FunctionType) and value.__code__.co_filename == "<string>" and key == "__init__"
    return isinstance(value, (FunctionType, staticmethod, classmethod)) and not is_generated


def imported(name: str, level: int, package: str | None) -> ModuleType | None:
    """A module of the user's own that a function imports when it is called; None for any other."""
    try:
        full = importlib.util.resolve_name("." * level + name, package) if level else name
        spec = importlib.util.find_spec(full)
        is_own = spec and spec.origin and is_own_file(spec.origin) and full.partition(".")[0] != "fipray"
        return importlib.import_module(full) if is_own else None
    except Exception:  # whatever the module's own code raises: the function will meet it
        return None
