"""Weights of exported networks as a `state_dict`: of members, packed, of smaller modules, and as a file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fipray.analysis import Results
from fipray.errors import NetworkError, UsageError
from fipray.export.loader import packed_2_4
from fipray.export.modules import tensors_of
from fipray.networks import Network, slimmed
from fipray.records import Store
from fipray.records.states import state_of

State = Mapping[str, Tensor]
_FORMAT = "format"


def state_dict_of(results: Results, name: str) -> dict[str, Tensor]:
    """Read the `state_dict` of a network, as that of `Results.module`.

    Args:
        results: results of a study.
        name: name of the network.

    Returns:
        Tensors by name; those of an ensemble's members begin with "members.0." and so on.

    Raises:
        UsageError: for an unknown name.
    """
    store = Store.open(results.location)
    states = [
        tensors_of(store.read_base() if member == "base" else state_of(store, results.weights(member)))
        for member in results.members(name)
    ]
    if name not in results.manifest.get("ensembles", {}):
        return states[0]
    return {f"members.{number}.{key}": value for number, state in enumerate(states) for key, value in state.items()}


@dataclass(frozen=True)
class Packed:
    """State with matrices in 2:4 format.

    Args:
        state: tensors by name, two for each packed matrix (`fipray.export.loader.packed_2_4`).
        names: names of the packed matrices.
        skipped: reasons by name of the matrices that stay dense.
    """

    state: State
    names: tuple[str, ...]
    skipped: Mapping[str, str]


def packed(manifest: Mapping[str, Any], state: State) -> Packed:
    """Pack the matrices of a network in 2:4 format.

    Args:
        manifest: manifest of the results directory, with the names of the parameters that moved.
        state: the `state_dict`.

    Returns:
        The packed state.

    Raises:
        UsageError: if no matrix has this pattern.
    """
    moved = {name for names, _ in manifest["parameters_of_module"] for name in names}
    found: dict[str, Tensor] = {}
    names, skipped = [], {}
    for name, value in state.items():
        own = name.partition(".")[2].partition(".")[2] if name.startswith("members.") and name not in moved else name
        parts = packed_2_4(value) if own in moved else None
        if parts is None:
            found[name] = value
            if own in moved and value.ndim >= 2:
                skipped[name] = _reason(value)
        else:
            names.append(name)
            found |= {name + suffix: part for suffix, part in parts.items()}
    if not names:
        raise UsageError(
            "no matrix of this network is in 2:4 format, with at most 2 of each 4 weights along dimension 1 not zero "
            f"({'; '.join(f'{name}: {why}' for name, why in list(skipped.items())[:4])}): prune with "
            "Sparsify(0.5, pattern=fip.sparsity.SemiStructured()), or export without --packed"
        )
    return Packed(found, tuple(names), skipped)


def _reason(value: Tensor) -> str:
    size = value.shape[1]
    return f"{size} inputs, not a multiple of 4" if size % 4 or not value.numel() else "more than 2 of 4 are not zero"


def slim_module(module: nn.Module) -> nn.Module:
    """Remove the channels of a module that are zero.

    Args:
        module: the module.

    Returns:
        Smaller module (`fipray.networks.slimmed`).

    Raises:
        NetworkError: if there is no such channel.
    """
    network = Network.of(module.eval(), moving=["*"])  # frozen layers lose channels too
    smaller = slimmed(network, network.weights)
    if _size(smaller) == _size(module):
        raise NetworkError(
            "no removable channel is zero, so nothing can be removed: prune channels "
            "(Sparsify(pattern=Structured())), or export without --slim"
        )
    return smaller.eval()


def content(state: State, suffix: str, metadata: Mapping[str, Any] | None = None) -> bytes:
    """Encode a state as a file.

    Args:
        state: tensors by name.
        suffix: ".safetensors", or another one for `torch.load`.
        metadata: plain values for the header of a safetensors file.

    Returns:
        Content of the file.
    """
    # Slices and shared tensors are copied: safetensors refuses shared memory, and torch.save writes all of it.
    own = {name: value.detach().contiguous().clone() for name, value in state.items()}
    if suffix == ".safetensors":
        # Readers such as transformers want the library that wrote the file.
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
        return save(own, {_FORMAT: "pt", **texts})
    stream = io.BytesIO()
    torch.save(own, stream)
    return stream.getvalue()


def _size(module: nn.Module) -> int:
    return sum(value.numel() for value in module.state_dict().values())
