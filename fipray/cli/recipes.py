"""Commands on recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fipray.cli.options import Parameters
from fipray.errors import UsageError


def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe whose parameters to show.", show_default="all")] = None,
) -> None:
    """List the recipes, or the parameters of one.

    Args:
        name: name of a recipe; None lists all.
    """
    from fipray.recipes import catalogue, find
    from fipray.terminal import print_rows

    if name is None:
        print_rows([(entry.name, "", entry.line) for entry in catalogue()])
        return
    entry = find(name)
    print_rows([(entry.name, "", entry.line)])
    print_rows(
        [(f"-p {one.name}=", one.default or "required", one.help) for one in entry.arguments if not one.is_choice]
    )
    if chosen := [(f"-p {one.name}=", "", one.help) for one in entry.arguments if one.is_choice]:
        typer.echo("\nChosen by a trial unless they are given:")
        print_rows(chosen)


def new(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, see `fipray recipes`.")],
    file: Annotated[Path, typer.Argument(help="Python file to write.")],
    parameter: Parameters = None,
) -> None:
    """Write a study file that runs what a recipe runs, to be edited.

    Without -p module=... and data=..., an example network and data stand for yours.

    Args:
        recipe: name of a recipe.
        file: file to write; it must not exist.
        parameter: arguments of the recipe, as "NAME=VALUE".
    """
    from fipray.recipes import find
    from fipray.recipes.writing import EXAMPLE, study_file
    from fipray.terminal import say

    entry = find(recipe)
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise UsageError(f"{file} cannot be imported: name a .py file with letters, digits and underscores only")
    if file.exists():
        raise UsageError(f"{file} exists already; nothing was written")
    texts = list(parameter or [])
    given = dict(text.split("=", 1) for text in texts if text.split("=", 1)[0] in entry.subject and "=" in text)
    if own := [name for name in entry.subject if name not in EXAMPLE]:
        raise UsageError(f"recipe {entry.name!r} makes networks or data from its {own[0]}, so no study file is written")
    subject = {name: given.get(name) or EXAMPLE["data" if name == "data" else "module"] for name in entry.subject}
    texts += [f"{name}={text}" for name, text in subject.items() if name not in given]
    source = study_file(entry.made(texts), subject)
    file.write_text(source.replace("THIS_FILE", file.stem), encoding="utf-8")
    say(f"{file}: run it with fipray run ./{file.name}:study --into DIRECTORY")
