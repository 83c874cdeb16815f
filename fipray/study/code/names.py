"""Names of classes and functions, entries of classes, and contents of cells and of local imports."""

from __future__ import annotations

import importlib
import importlib.util
from types import CellType, FunctionType, ModuleType
from typing import Any

from fipray.study.code.ownership import is_own_file

# Entries that Python and dataclasses generate from the rest of a class.
_GENERATED = {"__eq__", "__hash__", "__repr__", "__lt__", "__le__", "__gt__", "__ge__", "__setattr__", "__delattr__"}
_GENERATED |= {"__replace__", "__getstate__", "__setstate__", "__annotate__", "__annotate_func__"}


def named(value: Any) -> str:
    """Name of a class, function or object, as `module:qualified name`.

    Args:
        value: class, function, or an object, which is named by its class.

    Returns:
        Name.
    """
    module = getattr(value, "__module__", None) or type(value).__module__
    return f"{module}:{getattr(value, '__qualname__', None) or getattr(value, '__name__', type(value).__qualname__)}"


def kind(value: Any) -> str:
    """Name of a container's class.

    Args:
        value: container.

    Returns:
        Name, without the module for Python's built-in classes.
    """
    return named(type(value)).removeprefix("builtins:")


def content(cell: CellType) -> Any:
    """Content of a closure's cell.

    Args:
        cell: cell.

    Returns:
        Content; None for a cell that is not filled yet.
    """
    try:
        return cell.cell_contents
    except ValueError:
        return None


def does(key: str, value: Any) -> bool:
    """Check whether an entry of a class is part of its behaviour.

    Args:
        key: name of the entry.
        value: entry of the class's `__dict__`.

    Returns:
        False for what Python or a dataclass generated, and for special attributes that are no functions.
    """
    # `_abc_impl` caches the subclasses that were tested so far, which depends on what the process did before.
    if key in _GENERATED or key.startswith("_abc_"):
        return False
    if not key.startswith("__"):
        return True
    # A dataclass compiles its `__init__` from text, which gives the code the file name `<string>`. What it does follows
    # from the fields, and its text may differ between releases of Python.
    is_generated = isinstance(value, FunctionType) and value.__code__.co_filename == "<string>" and key == "__init__"
    return isinstance(value, (FunctionType, staticmethod, classmethod)) and not is_generated


def imported(name: str, level: int, package: str | None) -> ModuleType | None:
    """Import a module of the user's own that a function imports when it is called.

    Args:
        name: name of the module, as in the import statement.
        level: number of leading dots of a relative import; 0 for an absolute one.
        package: package of the function's module.

    Returns:
        Module; None where it is installed, or cannot be imported.
    """
    try:
        full = importlib.util.resolve_name("." * level + name, package) if level else name
        spec = importlib.util.find_spec(full)
        # Own modules are imported ahead of the call, so that their code counts; of installed ones nothing would.
        is_own = spec and spec.origin and is_own_file(spec.origin) and full.partition(".")[0] != "fipray"
        return importlib.import_module(full) if is_own else None
    except Exception:  # the module's own code may raise anything; the function will report it when it is called
        return None
