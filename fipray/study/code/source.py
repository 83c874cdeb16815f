"""Source of functions as text that does not depend on where or when they were loaded."""

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
"""Methods of Python's containers that change them."""


def text_of(function: FunctionType) -> str:
    """Normalised source of a function.

    Args:
        function: function.

    Returns:
        Source without comments, docstrings and layout. Where the source is gone, or has changed since it was loaded,
        the bytecode, which differs between releases of Python.
    """
    nodes = nodes_of(function)
    return "\n".join(map(ast.unparse, nodes)) if nodes else _instructions(function.__code__)


def nodes_of(function: FunctionType) -> list[ast.AST]:
    """Parse the source of a function.

    Args:
        function: function.

    Returns:
        Syntax trees without docstrings: several where lambdas share a line, none where the source is gone or is not
        that of the loaded code.
    """
    code = function.__code__
    linecache.checkcache(code.co_filename)  # the file may have changed since it was read
    # With the globals, linecache also asks the loaders of modules that are no plain files, as in a zip archive.
    lines = linecache.getlines(code.co_filename, function.__globals__)
    found = _parsed("".join(lines), code.co_filename)
    # Code objects compare by content and line: if the loaded one is missing, the file was edited after loading.
    if found is None or code not in found[1]:
        return []
    return found[0].get((code.co_firstlineno, code.co_name), [])


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """Iterate over a code object and all code objects nested in it.

    Args:
        code: code object.

    Yields:
        Code objects, outer ones first.
    """
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_in(constant)


def names_in(code: CodeType) -> set[str]:
    """Names of the globals and attributes that code looks up.

    Args:
        code: code object; those nested in it are included.

    Returns:
        Names.
    """
    return {name for each in codes_in(code) for name in each.co_names}


def state_of(function: FunctionType) -> set[str]:
    """Names of the globals and closure variables that a function changes itself.

    Their values are state, which does not say what the function does.

    Args:
        function: function.

    Returns:
        Names.
    """
    codes, storing = list(codes_in(function.__code__)), ("STORE_GLOBAL", "STORE_DEREF")
    stored = {step.argval for code in codes for step in dis.get_instructions(code) if step.opname in storing}
    return stored | {name for node in nodes_of(function) for name in _changed_in(node)}


def imports_in(function: FunctionType) -> Iterator[tuple[str, int]]:
    """Find the modules that a function imports when it is called.

    Args:
        function: function.

    Yields:
        Name and level (leading dots) of each import.
    """
    for top in nodes_of(function):
        for node in ast.walk(top):
            if isinstance(node, ast.Import):
                yield from ((alias.name, 0) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.module or "", node.level


@lru_cache(maxsize=256)
def _parsed(source: str, file: str) -> tuple[dict[tuple[int, str], list[ast.AST]], frozenset[CodeType]] | None:
    """Functions of a file by first line and name, and all code objects in it; None where it does not compile."""
    try:
        # Without inheritance: this module's own `from __future__` import would change the flags of the code objects,
        # which would then equal none of the loaded ones.
        compiled = compile(source, file, "exec", dont_inherit=True)
        tree = _WithoutDocstrings().visit(ast.parse(source))
    except (SyntaxError, ValueError):
        return None
    nodes: dict[tuple[int, str], list[ast.AST]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # The first line of a code object is that of its first decorator; a node's is that of `def`.
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
    """Names of objects with an assigned item or attribute, or with a call of a mutating method."""
    for node in ast.walk(top):
        part: ast.AST | None = None
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            part = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATING:
            part = node.func.value
        if isinstance(part, ast.Name):
            yield part.id


def _instructions(code: CodeType) -> str:
    """Bytecode, names and constants, without addresses, files, lines and docstrings."""
    constants = [_constant(each) for each in code.co_consts[_has_docstring(code) :]]
    return repr((code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars, constants))


def _constant(value: object) -> str:
    if isinstance(value, CodeType):
        return _instructions(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))})"
    # The order of a set's items depends on the process.
    return f"{{{', '.join(sorted(map(_constant, value)))}}}" if isinstance(value, frozenset) else repr(value)


def _has_docstring(code: CodeType) -> bool:
    if sys.version_info >= (3, 14):
        return bool(code.co_flags & inspect.CO_HAS_DOCSTRING)  # type: ignore[attr-defined, unused-ignore]
    # Before 3.14 the first constant of a function is its docstring, or None without one.
    return bool(code.co_consts) and isinstance(code.co_consts[0], str) and code.co_name != "<lambda>"
