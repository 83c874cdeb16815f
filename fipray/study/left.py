"""Attributes in which a forward pass only leaves something, such as the attention that it computed last."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from types import FunctionType

from fipray.study.own import is_own_module
from fipray.study.source import MUTATING, nodes_of

_PASSES = ("forward", "__call__")
_MAKING = ("__init__", "__post_init__", "__new__")
_BASES = {"torch.nn.modules.module", "builtins", "abc", "typing"}


def left_by_passes(cls: type) -> frozenset[str]:
    """Names of attributes that a pass of a class of the user's own sets or adds to, and no function of the class reads
    before: what is in them does not say what it computes.
    None of them where its source does not tell.
    """
    own = [each for each in cls.__mro__ if is_own_module(each.__module__)]
    if any(each not in own and each.__module__ not in _BASES for each in cls.__mro__):
        return frozenset()
    left: set[str] = set()
    read: set[str] = set()
    for name, function in [pair for each in own for pair in vars(each).items()]:
        if isinstance(function, property):
            function = function.fget
        if isinstance(function, FunctionType) and name not in _MAKING:
            found = _uses(function)
            if found is None:
                return frozenset()
            left |= found[0] if name in _PASSES else set()
            read |= found[1]
    return frozenset(left - read)


def _uses(function: FunctionType) -> tuple[set[str], set[str]] | None:
    """The attributes that a method sets or adds to, and those that it reads before it has set them; None where its
    source is not there, or it hands the whole object on.
    """
    nodes = nodes_of(function)
    if len(nodes) != 1 or not isinstance(nodes[0], ast.FunctionDef) or not nodes[0].args.args:
        return None
    me, changed, is_set, read = nodes[0].args.args[0].arg, set[str](), set[str](), set[str]()
    for statement in nodes[0].body:
        targets = {id(each) for each in _added_to(statement)}
        of_me = {id(each.value): each for each in ast.walk(statement) if isinstance(each, ast.Attribute)}
        for each in ast.walk(statement):
            if isinstance(each, ast.Name) and each.id == me:
                attribute = of_me.get(id(each))
                if attribute is None:
                    return None
                if not isinstance(attribute.ctx, ast.Load) or id(attribute) in targets:
                    changed.add(attribute.attr)
                elif attribute.attr not in is_set:
                    read.add(attribute.attr)
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            is_set |= {each.attr for each in _targets(statement) if getattr(each.value, "id", None) == me}
    return changed, read


def _targets(statement: ast.Assign | ast.AnnAssign) -> list[ast.Attribute]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [part for part in parts if isinstance(part, ast.Attribute)]


def _added_to(statement: ast.stmt) -> Iterator[ast.expr]:
    """What items are set of, and what is told to change where nobody looks at the answer."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield node.value
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr in MUTATING:
                yield called.value
