"""Digests of what the user's own code does.

They cover every class of the user's own that a spec or a module is made of: its functions, the user's own functions
that these call, and the constants that they look up by name. A class attribute `version = "2"` replaces all of this
for its class. fipray's own classes and installed packages are left out, except for the settings of a network's parts:
a number of heads, a hook or an activation decides what the network computes, whoever wrote the class.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fipray.study.canonical import digest
from fipray.study.code.walk import Code, Walk


def code_of(value: Any) -> Code:
    """Collect digests of the user's own code that a value depends on.

    Args:
        value: spec, module, string `module:function`, or tuples, lists and mappings of them.

    Returns:
        Digests (16 hexadecimal digits) by name: "module:Class", "module:function" or "module:constant", and
        "module:Class part" for a part of a network whose class is the user's own. Empty where there is no such code.
    """
    walk = Walk()
    walk.spec(value)
    return walk.found


def architecture_of(module: nn.Module) -> str:
    """Compute a digest of a network's architecture.

    It covers everything but weights and the user's own code: the parts, their settings and hooks, and which tensors
    they share.

    Args:
        module: network.

    Returns:
        16 hexadecimal digits, the same in every process.
    """
    walk = Walk()
    walk.spec(module)
    return digest(*walk.settings)


def texts_of(code: Code) -> tuple[str, ...]:
    """Convert digests of code to texts that go into an ID.

    Args:
        code: digests by name, from `code_of`.

    Returns:
        One text a name, sorted; empty where there is no code, so that IDs without code of the user's own do not depend
        on this module.
    """
    return tuple(f"{name} {each}" for name, each in sorted(code.items()))
