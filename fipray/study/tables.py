"""HTML table of a study's paths, as notebooks show it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from html import escape
from typing import Any

from fipray.printable import printable
from fipray.study.specs import PathSpec

_HEADER = ("name", "objective", "stepper", "steps", "start")


def html_table(caption: str, paths: Sequence[PathSpec]) -> str:
    """Write paths as an HTML table.

    Args:
        caption: text above the table.
        paths: specs of the paths, one a row.

    Returns:
        HTML with the columns name, objective, stepper, steps and start; all text is escaped.
    """
    rows = [(path.name, _brief(path.objective), _brief(path.stepper), path.num_steps, path.start) for path in paths]
    body = "".join(_row("td", row) for row in rows)
    head = f"<caption>{_escaped(caption)}</caption><thead>{_row('th', _HEADER)}</thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>"


def _row(tag: str, cells: Iterable[Any]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_escaped(cell)}</{tag}>' for cell in cells)}</tr>"


def _escaped(text: Any) -> str:
    # Strings in specs may come from anyone, and a notebook would run their scripts.
    return escape(printable(text))


def _brief(value: Any) -> str:
    """Class and fields that differ from their defaults, such as `Sparsify(sparsity=0.9)`."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_brief, value))})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    given = [(each, getattr(value, each.name)) for each in fields(value) if each.repr]
    shown = [f"{each.name}={_brief(one)}" for each, one in given if each.default is MISSING or one != each.default]
    return f"{type(value).__name__}({', '.join(shown)})"
