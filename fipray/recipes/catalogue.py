"""The recipes by name, and their arguments as text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from fipray.errors import UsageError
from fipray.printable import epsilon_text
from fipray.recipes.recipe import Recipe
from fipray.study import reference
from fipray.study.parameters import parse
from fipray.study.parsing import parsed

SUBJECT = ("module", "other", "data", "tasks")
"""Arguments that texts name as `module:function` or `file.py:function`."""
_RECIPES: dict[str, Entry] = {}
_ARGUMENT = re.compile(r"^(\w+): (.*)$")


@dataclass(frozen=True)
class Argument:
    """Argument of a recipe, for a listing.

    Args:
        name: its name.
        default: default as text; empty where there is none.
        help: its description in the docstring.
        is_choice: whether it is a setting that the recipe chooses unless it is given.
    """

    name: str
    default: str
    help: str
    is_choice: bool = False


@dataclass(frozen=True)
class Entry:
    """Recipe in the catalogue.

    Args:
        name: name on the command line, such as "prune".
        function: makes the recipe; its docstring describes the arguments.
        choices: dataclass of the settings that the recipe chooses, all with defaults, which can be overridden by name.
    """

    name: str
    function: Callable[..., Recipe]
    choices: type

    @property
    def line(self) -> str:
        """First line of the docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """All arguments, those that the recipe chooses last."""
        described = _described(self.function)
        own = [
            Argument(name, _shown(name, p.default), described.get(name, ""))
            for name, p in inspect.signature(self.function).parameters.items()
            if p.kind is not p.VAR_KEYWORD
        ]
        helps = _described(self.choices)
        chosen = [Argument(f.name, "chosen", helps.get(f.name, ""), is_choice=True) for f in fields(self.choices)]
        return (*own, *chosen)

    def made(self, assignments: Sequence[str]) -> Recipe:
        """Make the recipe from texts.

        Args:
            assignments: texts `name=value`; modules and data are references `module:function`.

        Returns:
            The recipe; its trial has not run.

        Raises:
            UsageError: for an unknown name, an invalid value, and a missing module or data.
        """
        split = [text.partition("=") for text in assignments]
        given = {name.strip(): value for name, _, value in split if name.strip() in SUBJECT}
        hints = {each.name: get_type_hints(self.choices)[each.name] for each in fields(self.choices)}
        choices = {
            name.strip(): _parsed(name.strip(), value, hints) for name, _, value in split if name.strip() in hints
        }
        rest = [
            text
            for text, (name, _, _) in zip(assignments, split, strict=True)
            if name.strip() not in {*SUBJECT, *hints}
        ]
        self._check_known([name.strip() for name, _, _ in split])
        if missing := [name for name in self.subject if name not in given]:
            raise UsageError(
                f"recipe {self.name!r} needs {', '.join(missing)}: give -p {missing[0]}=module:function, a function "
                "without arguments that returns it"
            )
        subject = {name: _subject(name, text) for name, text in given.items()}
        # The subject has been parsed already: `parse` is asked for the others alone.
        values = parse(_without(self.function, SUBJECT), rest)
        return self.function(**subject, **values, **choices)

    @property
    def subject(self) -> list[str]:
        """Names of the arguments that are a module or data."""
        return [name for name in inspect.signature(self.function).parameters if name in SUBJECT]

    def _check_known(self, names: Sequence[str]) -> None:
        valid = [argument.name for argument in self.arguments]
        if unknown := [name for name in names if name not in valid]:
            raise UsageError(f"recipe {self.name!r} has no parameter {unknown[0]!r}; it has: {', '.join(valid)}")


def recipe(name: str, choices: type) -> Callable[[Callable[..., Recipe]], Callable[..., Recipe]]:
    """Register a function that makes a recipe.

    Args:
        name: name on the command line: lower-case words joined by "-".
        choices: dataclass of the settings that can be overridden by name.

    Returns:
        A decorator.
    """
    assert all(each.default is not MISSING for each in fields(choices))

    def register(function: Callable[..., Recipe]) -> Callable[..., Recipe]:
        _RECIPES[name] = Entry(name, function, choices)
        return function

    return register


def catalogue() -> tuple[Entry, ...]:
    """All recipes, by name."""
    return tuple(_RECIPES[name] for name in sorted(_RECIPES))


def find(name: str) -> Entry:
    """Find a recipe.

    Args:
        name: its name, with "-" or "_" between words.

    Returns:
        The recipe.

    Raises:
        UsageError: for an unknown name, with all that there are.
    """
    found = _RECIPES.get(name.replace("_", "-"))
    if found is None:
        raise UsageError(
            f"there is no recipe {name!r}; there are: {', '.join(sorted(_RECIPES))}. A study of your own is named as "
            "module:function or file.py:function"
        )
    return found


def overrides_of(choices: type, recipe: str, given: dict[str, Any]) -> dict[str, Any]:
    """Check settings that override what a recipe would choose.

    Args:
        choices: dataclass of the settings.
        recipe: name of the recipe, for messages.
        given: overrides by name.

    Returns:
        The same.

    Raises:
        UsageError: for an unknown name, with all that there are.
    """
    valid = [each.name for each in fields(choices)]
    if unknown := [name for name in given if name not in valid]:
        raise UsageError(f"recipe {recipe!r} has no setting {unknown[0]!r}; settings are: {', '.join(valid)}")
    return given


def _shown(name: str, default: Any) -> str:
    """Default as a command line would have it; empty where there is none."""
    if default is inspect.Parameter.empty:
        return ""
    return epsilon_text(default) if name == "epsilon" else str(default)


def _subject(name: str, text: str) -> Any:
    makers = {"data": "data_of", "tasks": ""}  # tasks are a dictionary of their own
    made = getattr(reference, makers.get(name, "module_of"), None)
    return made(text) if made else reference.find(text)()


def _parsed(name: str, text: str, hints: dict[str, Any]) -> Any:
    try:
        return parsed(text, hints[name])
    except ValueError as error:
        raise UsageError(f"parameter {name}={text!r}: {error}") from error


def _without(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Leave parameters out of a function's signature, for parsing alone."""

    def shown(**values: Any) -> None:
        return None

    signature = inspect.signature(function)
    kept = [p for name, p in signature.parameters.items() if name not in names]
    vars(shown)["__signature__"] = signature.replace(parameters=kept)
    vars(shown)["__wrapped__"] = function  # annotations are texts, to be read among the names of its module
    shown.__qualname__ = function.__qualname__
    return shown


def _described(documented: Any) -> dict[str, str]:
    """Descriptions of arguments in the section `Args:` of a docstring, each as one line."""
    _, _, section = (inspect.getdoc(documented) or "").partition("Args:\n")
    found: dict[str, str] = {}
    last = ""
    for line in section.splitlines():
        if not line.strip() or not line.startswith("    "):
            break
        begins = _ARGUMENT.match(line[4:])
        if begins:
            last = begins[1]
            found[last] = begins[2]
        elif last:
            found[last] += f" {line.strip()}"
    return found
