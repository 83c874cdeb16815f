"""Form of a module: the wrappers around it and the outputs that it was given, to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fipray.border import checked
from fipray.errors import UsageError
from fipray.networks.heads import MultiHead, grown
from fipray.networks.packing import Layout, Packed, Part


@checked
def form_of(module: nn.Module) -> dict[str, Any]:
    """Describe a module's form.

    Args:
        module: a module; `MultiHead` around it, and `Packed` around or within that, are recognised.

    Returns:
        Plain values for `formed`.
    """
    form: dict[str, Any] = {}
    if isinstance(module, MultiHead):
        form["heads"] = {"num_tasks": module.num_tasks, "input_shape": list(module.input_shape)}
        module = module.module
    if isinstance(module, Packed):
        parts = [[part.name, list(part.shape), part.dtype] for part in module.layout.parts]
        form["layout"] = {"parts": parts, "by_keyword": module.layout.by_keyword}
    if (outputs := _num_outputs(module)) is not None:
        form["num_outputs"] = outputs
    return form


@checked
def formed(module: nn.Module, form: Mapping[str, Any]) -> nn.Module:
    """Give a module a form: what it lacks of packed inputs, outputs, and heads.

    Args:
        module: the module; not changed.
        form: as `form_of` describes it.

    Returns:
        The module in this form; a `MultiHead` as it is.

    Raises:
        UsageError: for a form that is not one.
    """
    if isinstance(module, MultiHead):
        return module
    try:
        if "layout" in form and not isinstance(module, Packed):
            parts = tuple(Part(name, tuple(shape), dtype) for name, shape, dtype in form["layout"]["parts"])
            module = Packed(module, Layout(parts, form["layout"]["by_keyword"]))
        outputs = _num_outputs(module)
        if outputs is not None and form.get("num_outputs", 0) > outputs:
            module = grown(module, form["num_outputs"])
        if "heads" in form:
            module = MultiHead(module, form["heads"]["num_tasks"], tuple(form["heads"]["input_shape"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the form of the module in the manifest cannot be read: {error!r}") from error
    return module


def _num_outputs(module: nn.Module) -> int | None:
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return linear[-1].out_features if linear else None
