"""Decorator that checks arguments of public functions and classes, with error messages of the library's own."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, wraps
from importlib import import_module
from typing import Any, TypeVar, cast

from fipray.border.wording import advice, described, expected, subject
from fipray.errors import DataError, NetworkError, UsageError

Thing = TypeVar("Thing", bound=Callable[..., Any])
_ERRORS = {"array": DataError, "network": NetworkError}


def checked(thing: Thing) -> Thing:
    """Check the arguments of a function, or of a class when an instance is made, against their annotations.

    Lists are converted to tuples where tuples are annotated, and numpy's numbers to Python's. A call of the decorated
    function raises UsageError for an argument that does not fit, is unknown or is missing: DataError for arrays,
    NetworkError for modules. Meant for functions that users call, not for those that run at every step of a path.

    Args:
        thing: the function or class.

    Returns:
        The checked function, or the same class with a checked `__init__`.
    """
    if isinstance(thing, type):
        made: Any = thing
        made.__init__ = _guarded(made.__init__, thing.__name__, thing)
        return thing
    return cast(Thing, _guarded(thing, thing.__qualname__))


def is_checked(thing: Any) -> bool:
    """Recognise what `checked` decorates.

    Args:
        thing: a function or class.

    Returns:
        True if it checks its arguments.
    """
    function = vars(thing).get("__init__") if isinstance(thing, type) else thing
    return getattr(getattr(function, "__code__", None), "co_name", "") == "guarded"


def _guarded(function: Any, name: str, owner: type | None = None) -> Any:
    # The name of the inner function is how `is_checked` recognises it. Annotations are evaluated with the first call,
    # since they may name classes that are defined later.
    signature = inspect.signature(function)
    is_method = owner is None and next(iter(signature.parameters), "") == "self"

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        # A method may be inherited: messages name the class of the object, which is the one that the user knows.
        called = f"{type(args[0]).__name__}.{function.__name__}" if is_method and args else name
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(f"{called}(): {error}; {_parameters(signature)}") from None
        _fit(bound.arguments, _hints(function, owner), called)
        return function(*bound.args, **bound.kwargs)

    return guarded


def _fit(arguments: dict[str, Any], hints: Mapping[str, Any], name: str) -> None:
    """Fit each argument to its annotation, in place."""
    # Imported with the first call, because importing beartype would slow down `import fipray`.
    from fipray.border.fitting import Misfit, fitted, one_scope

    parameter = ""
    try:
        with one_scope():
            for parameter in arguments:
                if parameter in hints:
                    arguments[parameter] = fitted(arguments[parameter], hints[parameter])
    except Misfit as misfit:
        found, wanted = misfit.value, misfit.hint
        raise _ERRORS.get(subject(wanted), UsageError)(
            f"{name}(): {parameter}{misfit.place} is {described(found)}; expected {expected(wanted)}"
            f"{advice(found, wanted)}"
        ) from None


def _parameters(signature: inspect.Signature) -> str:
    names = [name for name in signature.parameters if name not in ("self", "cls")]
    return f"it takes: {', '.join(names)}" if names else "it takes no arguments"


@cache
def _hints(function: Any, owner: type | None) -> Mapping[str, Any]:
    """Annotations of a function's parameters by name, in order, except `*args` and `**kwargs`.

    `owner` is the class whose `__init__` the function is: a dataclass may inherit fields from other modules, in which
    the annotations have to be evaluated.
    """
    modules = [cls.__module__ for cls in reversed(owner.__mro__) if cls is not object] if owner else []
    names, found = dict[str, Any](), dict[str, Any]()
    for module in modules:
        names |= vars(sys.modules[module])
    # The function's own module comes last, so that its names win.
    names |= inspect.unwrap(function).__globals__
    modules.append(names["__name__"])
    for name, parameter in inspect.signature(function).parameters.items():
        single = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if single and parameter.annotation is not parameter.empty:
            found[name] = _evaluated(parameter.annotation, names, modules)
    return found


def _evaluated(annotation: Any, names: dict[str, Any], modules: Sequence[str]) -> Any:
    """Evaluate an annotation that may be a string, importing names that its module imports for type checkers only."""
    # Each round imports one missing name, or evaluates a string to which an annotation evaluated.
    while isinstance(annotation, str):
        try:
            annotation = eval(annotation, names)  # typing.get_type_hints would fail at the first unknown name
        except NameError as error:
            missing = str(error.name)
            names[missing] = _import_for_type_checkers(modules, missing)
    return annotation


def _import_for_type_checkers(modules: Sequence[str], name: str) -> Any:
    for module in modules:
        for node in _imports_for_type_checkers(module):
            if node.module and name in [alias.asname or alias.name for alias in node.names]:
                return getattr(import_module(node.module), name)
    raise NameError(f"{modules[-1]} annotates an argument with {name}, but does not import it", name=name)


def _imports_for_type_checkers(module: str) -> Iterator[ast.ImportFrom]:
    for node in ast.parse(inspect.getsource(import_module(module))).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from (one for one in node.body if isinstance(one, ast.ImportFrom))
