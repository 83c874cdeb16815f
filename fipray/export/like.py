"""Architecture of a study's networks: a module, or a function that makes one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from fipray.errors import UsageError
from fipray.networks import copied
from fipray.study import Study, reference
from fipray.study.hubs import HUBS
from fipray.study.search import Search

_HELP = (
    "give a module of the study's architecture, or a function that returns one as module:function or file.py:function "
    "(like=... in Python, --like at the command line)"
)
_MODULE = "module"  # parameter of studies and recipes
_KINDS = (nn.Module, Study, Search)


def reference_of(manifest: Mapping[str, Any], like: object) -> str | None:
    """Look up the reference to the function that makes the module.

    Args:
        manifest: manifest of the results directory.
        like: what was given, see `architecture`.

    Returns:
        Such as "mymodule:net"; None where there is none, or the function makes a whole study.
    """
    if like is not None:
        return like if isinstance(like, str) else None
    named = manifest["parameters"].get(_MODULE)
    made = manifest.get("made_by", {"function": ":", "parameters": []})
    if ":" not in made["function"]:  # a recipe, one of whose arguments names the module
        named = next((text.partition("=")[2] for text in made["parameters"] if text.startswith(f"{_MODULE}=")), named)
    return named if isinstance(named, str) and ":" in named else None


def architecture(manifest: Mapping[str, Any], like: object = None) -> nn.Module:
    """Make a module of the architecture of a study's networks.

    Args:
        manifest: manifest of the results directory.
        like: a module, or a reference to a function that returns a module, a study or a search; None for the one in
            the manifest: the study's parameter `module`, or else the function that made the study.

    Returns:
        Module of its own, with any weights.

    Raises:
        UsageError: without any of these, and for a function that is not found, fails, or returns something else.
    """
    if isinstance(like, nn.Module):
        return copied(like)
    if like is not None and not isinstance(like, str):
        raise UsageError(f"the module's architecture cannot be taken from a {type(like).__name__}: {_HELP}")
    if named := reference_of(manifest, like):
        # Hubs and options are for modules alone; other functions may make a study, whose module it is.
        is_module = "?" in named or named.partition(":")[0] in HUBS
        return copied(reference.module_of(named)) if is_module else _module_of(named, {})
    if "made_by" not in manifest:
        raise UsageError(
            f"results hold weights and no code, and study {manifest['study']!r} was not run by a function that its "
            f"manifest names: {_HELP}"
        )
    name, texts = manifest["made_by"]["function"], manifest["made_by"]["parameters"]
    try:
        function = reference.find(name)
        # Arguments on the word of a directory, which may be of others, are for functions that make studies alone.
        if not _makes_study(function):
            raise UsageError(f"{name} is not annotated to return a fipray.Study or a module")
        return _module_of(name, reference.parse(function, texts))
    except UsageError as error:
        raise UsageError(f"the architecture comes from {name}, which made the study: {error}. Or {_HELP}") from error


def _module_of(name: str, values: dict[str, Any]) -> nn.Module:
    made = reference.called(reference.find(name), values, "module")
    if isinstance(made, Search):
        made = made.study
    if isinstance(made, Study):
        made = made.module
    if not isinstance(made, nn.Module):
        raise UsageError(f"{name} returned a {type(made).__name__}; it must return the study's torch.nn.Module")
    return copied(made)


def _makes_study(function: Any) -> bool:
    answer = inspect.signature(function).return_annotation
    if isinstance(answer, type):
        return issubclass(answer, _KINDS)
    return isinstance(answer, str) and answer.rpartition(".")[2] in {kind.__name__ for kind in _KINDS}
