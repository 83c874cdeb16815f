"""Parts of the site that are made of the code: public names, tables, commands, and notebooks as pages.

MkDocs calls the functions whose names begin with `on_`. A line `{{ names MODULE }}` of a page becomes a table of the
module's public names and the reference of each, `{{ tables }}` the columns of all tables, `{{ commands }}` the options
of all commands.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
SHIM = "https://unpkg.com/iframe-worker/shim"  # as the theme's plugin `offline` has it
OWN_SHIM = "assets/iframe-worker/shim.js"
LINE = re.compile(r"^\{\{ (\w+)(?: ([\w. ]+))? \}\}$", flags=re.MULTILINE)


def on_files(files: Any, config: Any) -> Any:
    """Add a page for every notebook."""
    from mkdocs.structure.files import File

    for notebook in sorted(Path(config["docs_dir"]).glob("notebooks/*.ipynb")):
        text, images = page_of(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, content in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the lines that stand for parts of the code."""
    name = Path(page.file.src_uri).name
    return LINE.sub(lambda match: filled(match[1], match[2] or "", name), markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Load the script that searches pages from a disk from this site, and not from another host."""
    return output.replace(SHIM, "../" * page.url.count("/") + OWN_SHIM)


def on_post_template(output_content: str, **_: Any) -> str:
    """Do so in 404.html."""
    return output_content.replace(SHIM, OWN_SHIM)


def filled(what: str, given: str, page: str) -> str:
    """Text in place of one line of a page."""
    made: dict[str, Callable[[], str]] = {
        "names": lambda: reference(given, page),
        "tables": tables,
        "commands": commands,
    }
    return made[what]()


def named(given: str) -> dict[str, Any]:
    """Public classes and functions that a line asks for: a module, and names in it where not all are meant."""
    module, *chosen = given.split()
    found = importlib.import_module(module)
    return {name: getattr(found, name) for name in chosen or public(found)}


@cache
def homes() -> dict[str, str]:
    """Page that documents each public name: of several, the first in the navigation."""
    found: dict[str, str] = {}
    for page in re.findall(r"reference/(\S+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")):
        for what, given in LINE.findall((ROOT / "docs/reference" / page).read_text(encoding="utf-8")):
            for value in named(given).values() if what == "names" else ():
                found.setdefault(place(value), page)
    return found


def public(module: ModuleType) -> list[str]:
    """Public classes and functions of a module, in alphabetical order."""
    listed = getattr(module, "__all__", None)
    names = listed if listed is not None else [name for name in vars(module) if not name.startswith("_")]
    found = {name: getattr(module, name) for name in names}
    is_package = hasattr(module, "__path__")
    return sorted(
        name
        for name, value in found.items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and (listed is not None or is_package or value.__module__ == module.__name__)
        and value.__module__.startswith("fipray")
    )


def reference(given: str, page: str) -> str:
    """Table of public names, and the reference of those that no earlier page documents."""
    found = {name: (place(value), value) for name, value in named(given).items()}
    links = {name: f"{'' if homes()[at] == page else homes()[at]}#{at}" for name, (at, _) in found.items()}
    rows = [f"| [`{name}`]({links[name]}) | {summary(value)} |" for name, (_, value) in found.items()]
    parts = [f"::: {at}\n" for name, (at, _) in found.items() if homes()[at] == page]
    return "\n".join(["| name | summary |", "|---|---|", *rows, "", *parts])


def place(value: Any) -> str:
    """Name of the module that defines a class or function, and its own."""
    return f"{value.__module__}.{value.__qualname__}"


def summary(value: Any) -> str:
    """First sentence of a docstring, fit for a cell of a table."""
    first = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r"`[^`]*`", lambda code: code[0].replace("|", "&#124;"), first).replace("|", "\\|")


def tables() -> str:
    """Columns of every table of a results directory."""
    from fipray.records import TABLES

    return "\n".join(line for table in TABLES.values() for line in table_lines(table))


def table_lines(table: Any) -> list[str]:
    """Section of one table."""
    kinds = {column.name: f"{column.type}{' or null' if column.optional else ''}" for column in table.columns}
    rows = [
        f"| `{column.name}` | {kinds[column.name].replace('<element: bool not null>', ' of bool')} | {column.unit} | "
        f"{column.description} |"
        for column in table.columns
    ]
    keys = ", ".join(f"`{name}`" for name in table.key)
    head = [f"## {table.name}", "", f"{table.description} Key: {keys}.", "", "| column | type | unit | meaning |"]
    return [*head, "|---|---|---|---|", *rows, ""]


def commands() -> str:
    """Help of every command, as it is printed on a terminal of 100 columns."""
    import typer
    from click import Context

    from fipray.cli.entry import app

    group: Any = typer.main.get_command(app)
    lines: list[str] = []
    for name, command in sorted(group.commands.items()):
        context = Context(command, info_name=f"fipray {name}")
        lines += [f"## fipray {name}", "", command.help or "", "", "| option | meaning | default |", "|---|---|---|"]
        lines += [option_row(parameter, context) for parameter in command.params if parameter.name != "help"]
        lines.append("")
    return "\n".join(lines)


def option_row(parameter: Any, context: Any) -> str:
    """Row of one argument or option."""
    is_option = parameter.param_type_name == "option"
    names = ", ".join(parameter.opts) if is_option else (parameter.metavar or parameter.name.upper())
    default = parameter.show_default if isinstance(parameter.show_default, str) else parameter.default
    shown = "required" if parameter.required else ("" if default in (None, ()) or callable(default) else default)
    return f"| `{names}` | {(parameter.help or '').replace('|', ' or ')} | {shown} |"


def page_of(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """Convert a notebook to Markdown.

    Args:
        notebook: file, with its outputs.

    Returns:
        The page, and the images in it by name.
    """
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(notebook))
    text = text.replace('<table border="1" class="dataframe">', "<table>")  # the theme leaves tables of a class alone
    names = {name: f"{notebook.stem}-{name}" for name in resources["outputs"]}
    for old, new in names.items():
        text = text.replace(f"]({old})", f"]({new})")
    return text, {names[name]: content for name, content in resources["outputs"].items()}
