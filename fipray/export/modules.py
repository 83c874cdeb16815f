"""Modules of the networks in a results directory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fipray.errors import UsageError
from fipray.export.like import architecture
from fipray.export.loader import Ensemble
from fipray.networks import copied, formed
from fipray.study.arrays import to_tensor
from fipray.study.code import architecture_of, code_of

Manifest = Mapping[str, Any]


def built(manifest: Manifest, name: str, states: Sequence[Mapping[str, np.ndarray]], like: object = None) -> nn.Module:
    """Build a network of a results directory as a module; see `fipray.analysis.Results.module`.

    Args:
        manifest: manifest of the results directory.
        name: name of the network.
        states: arrays of the `state_dict` of each of its members; one for a single network.
        like: architecture, see `fipray.export.like.architecture`.

    Returns:
        New module in evaluation mode.

    Raises:
        UsageError: without an architecture, or for one that the weights do not fit.

    Warns:
        UserWarning: if settings or code of the architecture differ from those that the study ran with.
    """
    module = architecture(manifest, like)
    if not _fits(module, states[0]):
        # A recipe may have packed the inputs of the module that it was given, or added outputs or heads.
        module = formed(module, manifest.get("form", {}))
    members = [_with_state(module, manifest, tensors_of(state)) for state in states]
    _compare(manifest, module)
    if name in manifest.get("ensembles", {}):
        spec = manifest["ensembles"][name]
        mixing = {key: spec[key] for key in ("weights", "temperatures") if key in spec}
        return Ensemble(members, spec["average"], spec["dim"], **mixing).eval()
    return members[0]


def tensors_of(state: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Convert arrays of a `state_dict` to tensors.

    Args:
        state: arrays by name.

    Returns:
        Tensors by name, each with memory of its own.
    """
    return {name: to_tensor(array).clone() for name, array in state.items()}


def _fits(module: nn.Module, state: Mapping[str, np.ndarray]) -> bool:
    own = module.state_dict()
    return own.keys() == state.keys() and all(tuple(own[name].shape) == state[name].shape for name in own)


def _with_state(module: nn.Module, manifest: Manifest, state: Mapping[str, Tensor]) -> nn.Module:
    own = copied(module).eval()
    tensors = own.state_dict()
    # load_state_dict would cast silently, which changes what a network in half precision computes.
    other = [name for name, value in state.items() if name in tensors and tensors[name].dtype != value.dtype]
    if other:
        raise UsageError(
            f"{other[0]} is {tensors[other[0]].dtype} in the module and {state[other[0]].dtype} in the network of "
            f"study {manifest['study']!r}: convert the module first, as the study's was"
        )
    try:
        own.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"{type(module).__name__} is not the module of study {manifest['study']!r}: {error}"
        ) from error
    return own


def _compare(manifest: Manifest, module: nn.Module) -> None:
    """Warn of an architecture that may compute something else with the same weights."""
    before, now = manifest.get("code", {}), code_of(module)
    changed = sorted(name for name, digest in now.items() if before.get(name, digest) != digest)
    if changed:
        warnings.warn(f"the code of the module has changed since the study ran: {', '.join(changed)}", stacklevel=4)
    if manifest.get("architecture", "") not in ("", architecture_of(module)):
        warnings.warn(
            f"the {type(module).__name__} has other settings or parts than the module of study {manifest['study']!r} "
            "(or another version of its library made it), so it may compute another function with the same weights",
            stacklevel=4,
        )
