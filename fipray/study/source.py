"""What a function is, as text that does not depend on where or when it is loaded."""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType

MUTATING = {
    "append",
    "extend",
    "insert",
    "update",
    "setdefault",
    "add",
    "pop",
    "popitem",
    "remove",
    "discard",
    "clear",
}


def text_of(function: FunctionType) -> str:
    """The function's source without comments, docstrings and layout; of code whose source is gone, or is no longer
    what was loaded, its instructions instead, which other releases of Python may have otherwise.
    """
    nodes = nodes_of(function)
    return "\n".join(map(ast.unparse, nodes)) if nodes else _instructions(function.__code__)


def nodes_of(function: FunctionType) -> list[ast.AST]:
    """The parsed source of a function, without docstrings; more than one where lambdas share a line, and none where
    the source is not that of the code that was loaded.
    """
    code = function.__code__
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    found = _parsed("".join(lines), code.co_filename)
    if found is None or code not in found[1]:
        return []
    return found[0].get((code.co_firstlineno, code.co_name), [])


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """The code and all that is defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def names_in(code: CodeType) -> set[str]:
    """The names of globals and attributes that the code, and what is defined in it, looks up."""
    return {name for each in codes_in(code) for name in each.co_names}


def state_of(function: FunctionType) -> set[str]:
    """The globals and outer variables that a function changes itself: what is in them says nothing of what it does."""
    codes, storing = list(codes_in(function.__code__)), ("STORE_GLOBAL", "STORE_DEREF")
    stored = {step.argval for code in codes for step in dis.get_instructions(code) if step.opname in storing}
    return stored | {name for node in nodes_of(function) for name in _changed_in(node)}


def imports_in(function: FunctionType) -> Iterator[tuple[str, int]]:
    """The modules that a function imports when it is called, by name and level."""
    for top in nodes_of(function):
        for node in ast.walk(top):
            if isinstance(node, ast.Import):
                yield from ((alias.name, 0) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or "", node.level


@lru_cache(maxsize=256)
def _parsed(source: str, file: str) -> tuple[dict[tuple[int, str], list[ast.AST]], frozenset[CodeType]] | None:
    """The functions of a file by first line and name, and all code in it."""
    try:
        compiled = compile(source, file, "exec", dont_inherit=True)
        tree = _WithoutDocstrings().visit(ast.parse(source))
    except (SyntaxError, ValueError):
        return None
    nodes: dict[tuple[int, str], list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            nodes.setdefault((first, node.name), []).append(node)
        elif isinstance(node, ast.Lambda):
            nodes.setdefault((node.lineno, "<lambda>"), []).append(node)
    return nodes, frozenset(codes_in(compiled))


class _WithoutDocstrings(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
        return node


def _changed_in(top: ast.AST) -> Iterator[str]:
    """Names of what is assigned to in part, or told to change."""
    for node in ast.walk(top):
        part: ast.AST | None = None
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            part = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING:
            part = node.func.value
        if isinstance(part, ast.Name):
            yield part.id


def _instructions(code: CodeType) -> str:
    """What the code does, without addresses, files, lines and docstrings."""
    constants = [_constant(each) for each in code.co_consts[_has_docstring(code) :]]
    return repr((code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants))


def _constant(value: object) -> str:
    if isinstance(value, CodeType):
        return _instructions(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))})"
    return f"{{{', '.join(sorted(map(_constant, value)))}}}" if isinstance(value, frozenset) else repr(value)


def _has_docstring(code: CodeType) -> bool:
    if sys.version_info >= (3, 13):
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)  # type: ignore[attr-defined, unused-ignore]
    return bool(code.co_consts) and isinstance(code.co_consts[0], str) and code.co_name != "<lambda>"
