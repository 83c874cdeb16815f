"""Export of networks from a results directory: as a state_dict, or as that of a smaller dense module."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from fipray import analysis
from fipray.border import checked
from fipray.errors import NetworkError, UsageError
from fipray.networks import Network, slimmed
from fipray.records import Store
from fipray.records.files import check_place, write_whole
from fipray.study import reference
from fipray.study.arrays import to_tensor

_SUFFIXES = (".safetensors", ".pt", ".pth")


@checked
def export(directory: str | Path, path: str, sparsity: float | None, to: Path, slim: str | None = None) -> str:
    """Write a network of a results directory to a file, as a state_dict of the study's module.

    The module loads it with `load_state_dict(strict=True)`.

    Args:
        directory: results directory, or its address in an object store.
        path: name or ID of the path, or "base".
        sparsity: sparsity, 0..1, of a pruned network on the way of the path; None for the network at its end.
        to: file to write, which must not exist, with the suffix .safetensors, .pt or .pth.
        slim: `module:function` that makes the study's module. Channels that are zero are then removed, and the state is
            that of a smaller module (`fipray.networks.slimmed`), which `fipray.networks.fitted` builds from it.

    Returns:
        Sentence with the number of weights, the fraction of them that is zero, and the size of the file.

    Raises:
        UsageError: for an unknown path or sparsity, a file that exists or has another suffix, and a module that is not
            the study's.
        NetworkError: with `slim`, for a network without a removable channel that is zero.
        RecordsError: for a file that cannot be written.
    """
    check_place(to)
    to = to.expanduser()
    if to.suffix not in _SUFFIXES:
        raise UsageError(
            f"{to} has {f'the suffix {to.suffix}' if to.suffix else 'no suffix'}: use one of {', '.join(_SUFFIXES)}"
        )
    if to.exists():
        raise UsageError(f"{to} exists already; nothing was written")
    results = analysis.load(directory)
    if sparsity is None:
        weights = results.weights(path)
    else:
        row = analysis.find_variant(results, path, sparsity)
        weights = Store.open(directory).read_weights(row["weights_file"], row["weights_sha256"])["weights"]
    base = Store.open(directory).read_base()
    state = {
        name: torch.from_numpy(array).to(to_tensor(base[name]).dtype)
        for name, array in analysis.state_dict(results, weights).items()
    }
    if slim:
        state = _slim(slim, state)
    # Sparsity counts weights of layers: biases and statistics, vectors all of them, are not pruned.
    matrices = [value for value in _unmasked(state) if value.ndim >= 2]
    zeros, count = sum(int((value == 0).sum()) for value in matrices), sum(value.numel() for value in matrices)
    write_whole(to, _content(state, to.suffix))
    return f"{to}: {count:,} weights of layers, {zeros / max(count, 1):.1%} of them zero, {to.stat().st_size:,} bytes"


def _unmasked(state: dict[str, Tensor]) -> Iterator[Tensor]:
    """Entries of a state_dict, with the masks of `torch.nn.utils.prune` applied."""
    masks = {name.removesuffix("_mask") + "_orig": name for name in state if name.endswith("_mask")}
    for name, value in state.items():
        if name in masks:
            yield value * state[masks[name]]
        elif name.removesuffix("_mask") + "_orig" not in state:
            yield value


def _slim(slim: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    module = reference.find(slim)()
    if not isinstance(module, nn.Module):
        raise UsageError(f"{slim} returned a {type(module).__name__}; it must return the study's torch.nn.Module")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"{slim} returned another module than the study's: {error}") from error
    network = Network.of(module.eval(), moving=["*"])  # frozen layers lose channels too
    smaller = slimmed(network, network.weights).state_dict()
    if sum(value.numel() for value in smaller.values()) == sum(value.numel() for value in state.values()):
        raise NetworkError(
            "no removable channel is zero, so nothing can be removed: prune channels "
            "(Sparsify(pattern=Structured())), or export without --slim"
        )
    return smaller


def _content(state: dict[str, Tensor], suffix: str) -> bytes:
    # Slices and shared tensors are copied: safetensors refuses shared memory, and torch.save writes all of it.
    own = {name: value.contiguous().clone() for name, value in state.items()}
    if suffix == ".safetensors":
        return save(own)
    stream = io.BytesIO()
    torch.save(own, stream)
    return stream.getvalue()
