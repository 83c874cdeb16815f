"""A study or a search by its name: `module:function` or `file.py:function`."""

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

__all__ = ["StudyFunction", "build", "find", "parse"]

StudyFunction = Callable[..., Any]
Asked = TypeVar("Asked", Study, Search)
NUM_FRAMES = 4  # of a user's own code, shown beneath the sentence


def find(reference: str) -> StudyFunction:
    """The function that `module:function` or `file.py:function` names.

    Raises UsageError, with what there is, where there is none, and where the module cannot be imported.
    """
    module_name, colon, function_name = reference.rpartition(":")
    if not (module_name and colon and function_name):
        raise UsageError(
            "a study is named module:function, such as experiments.quickstart:study, or file.py:function, such as "
            f"./study.py:study; {reference!r} was given"
        )
    module = _module(module_name)
    function = getattr(module, function_name, None)
    if not inspect.isfunction(function):
        there = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        public = sorted(name for name in there if not name.startswith("_"))
        raise UsageError(f"{module_name} has no function {function_name!r}; it has: {', '.join(public) or 'none'}")
    return function


def build(function: StudyFunction, values: dict[str, Any], asked: type[Asked]) -> Asked:
    """The study or search that `function` makes of these values.

    Raises UsageError where it returns anything else, and where its own code fails.
    """
    name, kind = function.__qualname__, asked.__name__
    try:
        made = call(function, values)
    except FiprayError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise UsageError(_failed(f"{name} could not make its {kind.lower()}", error)) from error
    if not isinstance(made, asked):
        raise UsageError(f"{name} returned a {type(made).__name__}; a {kind.lower()} function returns a fipray.{kind}")
    return made


def _module(name: str) -> ModuleType:
    is_file = name.endswith(".py") or "/" in name or "\\" in name
    try:
        return loaded(Path(name)) if is_file else import_module(name)
    except FiprayError:
        raise
    except ModuleNotFoundError as error:
        if not is_file and error.name and (name == error.name or name.startswith(f"{error.name}.")):
            beside = f"; there is a file {name}.py here: name it as ./{name}.py:" if Path(f"{name}.py").exists() else ""
            raise UsageError(
                f"there is no module {error.name!r}: run from the folder that holds it, or put it on PYTHONPATH{beside}"
            ) from error
        raise UsageError(f"{name} needs the module {error.name!r}, which is not installed") from error
    except SyntaxError as error:
        raise UsageError(f"{error.filename}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    except (Exception, SystemExit) as error:  # whatever the module's own code raises
        raise UsageError(_failed(f"{name} could not be imported", error)) from error


def _failed(what: str, error: BaseException) -> str:
    """A sentence with the file and line of the innermost code that is not installed, and the lines that led there."""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own_file(frame.filename)]
    if not frames:
        return f"{what}: {said}"
    lines = [
        f"  {frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[-NUM_FRAMES:]
    ]
    return "\n".join([f"{what}: {said} ({frames[-1].filename}, line {frames[-1].lineno})", *lines])
