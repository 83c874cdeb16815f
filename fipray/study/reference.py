"""Study and search functions by reference: `module:function` or `file.py:function`."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fipray.errors import FiprayError, UsageError
from fipray.study.code.ownership import is_own_file
from fipray.study.parameters import call, parse
from fipray.study.script import loaded
from fipray.study.search import Search
from fipray.study.study import Study

__all__ = ["StudyFunction", "build", "called", "find", "parse"]

StudyFunction = Callable[..., Any]
Asked = TypeVar("Asked", Study, Search)
NUM_FRAMES = 4
"""Frames of the user's own code that are shown below an error message."""


def find(reference: str) -> StudyFunction:
    """Import a function by reference.

    Args:
        reference: `module:function` or `file.py:function`.

    Returns:
        Function.

    Raises:
        UsageError: for an unknown function, with those that exist, and for a module that cannot be imported.
    """
    # From the right: a file name on Windows has a colon of its own, after the drive.
    module_name, colon, function_name = reference.rpartition(":")
    if not (module_name and colon and function_name):
        raise UsageError(
            "name a study as module:function, such as experiments.quickstart:study, or as file.py:function, such as "
            f"./study.py:study; got {reference!r}"
        )
    module = _module(module_name)
    function = getattr(module, function_name, None)
    if not inspect.isfunction(function):
        defined = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        public = sorted(name for name in defined if not name.startswith("_"))
        raise UsageError(f"{module_name} has no function {function_name!r}; it has: {', '.join(public) or 'none'}")
    return function


def build(function: StudyFunction, values: dict[str, Any], asked: type[Asked]) -> Asked:
    """Call a study function.

    Args:
        function: study function.
        values: its arguments by name.
        asked: class to return, `Study` or `Search`.

    Returns:
        Study or search.

    Raises:
        UsageError: for a function that returns anything else, or whose own code fails.
    """
    name, kind = function.__qualname__, asked.__name__
    made = called(function, values, kind.lower())
    if not isinstance(made, asked):
        name_of_class = "search.Search" if kind == "Search" else kind
        raise UsageError(
            f"{name} returned a {type(made).__name__}; a {kind.lower()} function must return a fipray.{name_of_class}"
        )
    return made


def called(function: StudyFunction, values: dict[str, Any], kind: str) -> Any:
    """Call a function of the user's own.

    Args:
        function: function.
        values: its arguments by name.
        kind: what it makes, for the message.

    Returns:
        What it returns.

    Raises:
        UsageError: if its own code fails.
    """
    try:
        return call(function, values)
    except FiprayError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UsageError(_failed(f"{function.__qualname__} could not make its {kind}", error)) from error


def _module(name: str) -> ModuleType:
    is_file = name.endswith(".py") or "/" in name or "\\" in name
    try:
        return loaded(Path(name)) if is_file else import_module(name)
    except FiprayError:
        raise
    except ModuleNotFoundError as error:
        # The module itself is missing, or a package around it; otherwise it imports a module that is missing.
        if not is_file and error.name and (name == error.name or name.startswith(f"{error.name}.")):
            beside = f"; for the file {name}.py in this folder, use ./{name}.py:" if Path(f"{name}.py").exists() else ""
            raise UsageError(
                f"there is no module {error.name!r}: run from the folder that contains it, or add that to "
                f"PYTHONPATH{beside}"
            ) from error
        raise UsageError(f"{name} needs the module {error.name!r}, which is not installed") from error
    except SyntaxError as error:
        raise UsageError(f"{error.filename}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    except (Exception, SystemExit) as error:  # the module's own code may raise anything
        raise UsageError(_failed(f"{name} could not be imported", error)) from error


def _failed(what: str, error: BaseException) -> str:
    """Message with the file and line of the innermost frame of the user's own code, and the frames above it."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own_file(frame.filename)]
    if not frames:
        return f"{what}: {reason}"
    lines = [
        f"  {frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[-NUM_FRAMES:]
    ]
    return "\n".join([f"{what}: {reason} ({frames[-1].filename}, line {frames[-1].lineno})", *lines])
