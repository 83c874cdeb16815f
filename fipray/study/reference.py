"""A study or a search by its name: `module:function`, and its knobs as text."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fipray.errors import UsageError
from fipray.study.search import Search
from fipray.study.spec import Study

StudyFunction = Callable[..., Any]
Asked = TypeVar("Asked", Study, Search)


def find(reference: str) -> StudyFunction:
    """The function that `module:function` names. Raises UsageError, with what there is, where there is none."""
    module_name, colon, function_name = reference.partition(":")
    if not (module_name and colon and function_name) or module_name.startswith("."):
        raise UsageError(
            f"a study is named module:function, such as experiments.quickstart:study; {reference!r} was given"
        )
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {error.name!r}: run from the folder that holds it, or put it on PYTHONPATH"
            ) from error
        raise UsageError(f"{module_name} needs the module {error.name!r}, which is not installed") from error
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


def parse(function: StudyFunction, assignments: Sequence[str]) -> dict[str, Any]:
    """The keyword arguments that `name=value` texts mean for `function`, by its annotations.

    Raises UsageError for an unknown name, a missing one, and a value that does not fit the annotation.
    """
    parameters = inspect.signature(function).parameters
    hints = get_type_hints(function)
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"a parameter is given as name=value; {assignment!r} was given")
        if name not in parameters:
            raise UsageError(f"the study has no parameter {name!r}; it has: {', '.join(parameters) or 'none'}")
        try:
            values[name] = TypeAdapter(hints.get(name, str)).validate_strings(text)
        except ValidationError as error:
            raise UsageError(f"parameter {name}={text!r}: {error.errors()[0]['msg']}") from error
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in values]
    if missing:
        raise UsageError(f"the study needs {', '.join(missing)}: give -p {missing[0]}=value")
    return values


def build(function: StudyFunction, values: dict[str, Any], asked: type[Asked]) -> Asked:
    """The study or search that `function` makes of these values. Raises UsageError where it returns anything else."""
    made = function(**values)
    if not isinstance(made, asked):
        name, kind = function.__qualname__, asked.__name__
        raise UsageError(f"{name} returned a {type(made).__name__}; a {kind.lower()} function returns a fipray.{kind}")
    return made
