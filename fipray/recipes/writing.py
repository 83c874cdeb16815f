"""Study files: what a recipe runs, as Python to read and edit."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

import fipray
from fipray.errors import UsageError
from fipray.recipes.anchors import ALL
from fipray.recipes.recipe import Recipe

EXAMPLE = {"module": "fipray.recipes.example:module", "data": "fipray.recipes.example:data"}
"""Stand-ins for the arguments that a user has not given yet."""
NAMESPACES = ("", "objectives", "steppers", "radii", "events", "sparsity", "attacks", "recipes", "study")
_PLAIN = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")


def study_file(recipe: Recipe, subject: Mapping[str, str]) -> str:
    """Write a study file that runs what a recipe runs.

    Args:
        recipe: the recipe; its trial runs if it has not run.
        subject: references of `module` and `data`, as they were given.

    Returns:
        Python source with a function `study`.
    """
    plan, study = recipe.plan, recipe.study
    parts: dict[str, Any] = {"paths": plan.paths, "ensembles": plan.ensembles, "evaluation": plan.evaluation}
    parts |= {"geometry": plan.geometry, "measures": dict(plan.measures)}
    defaults = {each.name: each for each in fields(type(study))}
    given = {name: value for name, value in parts.items() if not _is_default(defaults[name], value)}
    reasons = "\n".join(f"# {line}" for reason in recipe.chosen.reasons for line in textwrap.wrap(reason, 116))
    imports, made = _imports(subject)
    data = made["data"] if plan.anchors == ALL else f"{code(plan.anchors)}.of({made['data']})"
    lines = [f"        {name}={code(value)}," for name, value in given.items()]
    return f'''"""Study of the recipe {recipe.name!r}, written out: edit what you like.

    fipray run ./THIS_FILE.py:study --into results/{recipe.name}
"""

import fipray as fip
{imports}

{reasons}


def study() -> fip.Study:
    return fip.Study(
        name={recipe.name!r},
        module={made["module"]},
        data={data},
{chr(10).join(lines)}
    )
'''


def code(value: Any) -> str:
    """Write a spec as the Python expression that makes it.

    Args:
        value: number, text, tuple, dictionary or spec of fipray.

    Returns:
        Expression in the names of `import fipray as fip`; fields at their defaults are left out.

    Raises:
        UsageError: for a class that fipray does not export.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, tuple):
        return f"({', '.join(map(code, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {code(item)}" for key, item in value.items()) + "}"
    if not is_dataclass(value):
        return repr(value)
    given = [
        f"{each.name}={code(getattr(value, each.name))}"
        for each in fields(value)
        if each.init and not _is_default(each, getattr(value, each.name))
    ]
    return f"{_public(type(value))}({', '.join(given)})"


def _is_default(field: Field[Any], value: Any) -> bool:
    if field.default_factory is not MISSING:
        return bool(value == field.default_factory())
    return field.default is not MISSING and bool(value == field.default)


def _public(cls: type) -> str:
    for name in NAMESPACES:
        space = getattr(fipray, name) if name else fipray
        # Not every attribute of the top level: names that have moved are still found there, with a warning.
        if (name or cls.__name__ in dir(fipray)) and getattr(space, cls.__name__, None) is cls:
            return f"fip.{name}.{cls.__name__}" if name else f"fip.{cls.__name__}"
    raise UsageError(f"{cls.__name__} has no public name, so it cannot be written into a study file")


def _imports(subject: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Lines that import what makes module and data, and the expressions that make them."""
    lines, made = [], {}
    for name, text in subject.items():
        plain = _PLAIN.fullmatch(text)
        if plain and not text.startswith(("timm:", "torchvision:", "hf:")):
            lines.append(f"from {plain[1]} import {plain[2]} as make_{name}")
            made[name] = f"make_{name}()"
        else:
            lines.append("from fipray.study import reference")
            made[name] = f"reference.{name}_of({text!r})"
    return "\n".join(dict.fromkeys(lines)), made
