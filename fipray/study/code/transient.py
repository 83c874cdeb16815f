"""Attributes that a forward pass writes but never reads, such as the attention weights that it computed last."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import FunctionType

from fipray.study.code.ownership import is_own_module
from fipray.study.code.source import MUTATING, nodes_of

_PASSES = ("forward", "__call__")
_CONSTRUCTORS = ("__init__", "__post_init__", "__new__")
# Bases whose methods read no attributes of subclasses.
_BASES = {"torch.nn.modules.module", "builtins", "abc", "typing"}


def transient_attributes(cls: type) -> frozenset[str]:
    """Find attributes that forward passes write and that no method reads before they are written.

    Their values depend on the last inputs and do not affect what an object computes, so they must not enter an ID.

    Args:
        cls: class of the user's own.

    Returns:
        Names of attributes. Empty where that cannot be decided: the source is not available, a method passes the whole
        object on, or a base class is installed.
    """
    own = [each for each in cls.__mro__ if is_own_module(each.__module__)]
    # Methods of an installed base class may read any attribute, and their source is not looked at.
    if any(each not in own and each.__module__ not in _BASES for each in cls.__mro__):
        return frozenset()
    written: set[str] = set()
    read: set[str] = set()
    for name, function in [pair for each in own for pair in vars(each).items()]:
        if isinstance(function, property):
            function = function.fget
        if isinstance(function, FunctionType) and name not in _CONSTRUCTORS:
            found = _uses(function)
            if found is None:
                return frozenset()
            written |= found[0] if name in _PASSES else set()
            read |= found[1]
    return frozenset(written - read)


def _uses(function: FunctionType) -> tuple[set[str], set[str]] | None:
    """Attributes that a method sets or mutates, and those that it reads before setting them.

    None where its source is not available, or where it passes the whole object on.
    """
    nodes = nodes_of(function)
    if len(nodes) != 1 or not isinstance(nodes[0], ast.FunctionDef) or not nodes[0].args.args:
        return None
    self_name, changed, is_set, read = nodes[0].args.args[0].arg, set[str](), set[str](), set[str]()
    for statement in nodes[0].body:
        targets = {id(each) for each in _mutated(statement)}
        of_self = {id(each.value): each for each in ast.walk(statement) if isinstance(each, ast.Attribute)}
        for each in ast.walk(statement):
            if isinstance(each, ast.Name) and each.id == self_name:
                attribute = of_self.get(id(each))
                # The object itself is used, such as in `helper(self)`: from there any attribute may be read.
                if attribute is None:
                    return None
                if not isinstance(attribute.ctx, ast.Load) or id(attribute) in targets:
                    changed.add(attribute.attr)
                elif attribute.attr not in is_set:
                    read.add(attribute.attr)
        # Only assignments at the top level of the method are certain to be executed before what follows.
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            is_set |= {each.attr for each in _targets(statement) if getattr(each.value, "id", None) == self_name}
    return changed, read


def _targets(statement: ast.Assign | ast.AnnAssign) -> list[ast.Attribute]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [part for part in parts if isinstance(part, ast.Attribute)]


def _mutated(statement: ast.stmt) -> Iterator[ast.expr]:
    """Objects whose items are assigned, and those with a mutating method call whose result is unused."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr in MUTATING:
                yield called.value
