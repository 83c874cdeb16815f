"""State of a module from a file of weights."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fipray.errors import NetworkError, UsageError

_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_NUM_NAMED = 3  # names of parameters in a message


def load_state(module: nn.Module, file: str) -> None:
    """Load a file of weights into a module, in place.

    Prefixes that all names share, such as "module." of DataParallel or "_orig_mod." of torch.compile, are removed.

    Args:
        module: the module.
        file: a .safetensors file, or what `torch.save(module.state_dict(), file)` wrote, also as the entry "state_dict"
            or "model" of a checkpoint. Nothing but tensors is read.

    Raises:
        UsageError: for a file that does not exist or holds no state_dict.
        NetworkError: for weights of another architecture, with the names and shapes that differ.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        near = get_close_matches(path.name, [each.name for each in path.parent.glob("*")], 1)
        raise UsageError(f"there is no file {path}" + (f"; there is {path.parent / near[0]}" if near else ""))
    own = module.state_dict()
    state = _without_prefix(_tensors(path, _read(path)), own)
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if shapes:
        raise NetworkError(
            f"{path} holds weights of other shapes than {type(module).__name__}: {_listed(shapes)}. If only the last "
            "layer differs, give the number of classes, such as num_classes=10"
        )
    # By the module itself, which knows what old states may lack, such as the counts of BatchNorm.
    missing, unknown = module.load_state_dict(state, strict=False)
    if missing or unknown:
        raise NetworkError(
            f"{path} holds weights of another architecture than {type(module).__name__}: it lacks "
            f"{_listed(missing)}, and has {_listed(unknown)} that the module does not have"
        )


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path} holds Python objects besides tensors, and reading these could run any code: save the state alone "
            "by torch.save(module.state_dict(), file)"
        ) from error
    except (safetensors.SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path} cannot be read as weights: {type(error).__name__}: {reason}") from error


def _tensors(path: Path, found: Any) -> dict[str, Tensor]:
    """Find the mapping of names to tensors in what was read, or in one of its entries."""
    if not isinstance(found, Mapping):
        raise UsageError(f"{path} holds a {type(found).__name__}, not a state_dict: give module.state_dict()")
    if found and all(isinstance(value, Tensor) for value in found.values()):
        return {str(name): value for name, value in found.items()}
    inner = [name for name in _ENTRIES if isinstance(found.get(name), Mapping)]
    if not inner:
        raise UsageError(f"{path} holds no state_dict; its entries are: {_listed([str(name) for name in found])}")
    return _tensors(path, found[inner[0]])


def _without_prefix(state: dict[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """Remove leading words that all names share, as long as none of them is a name of the module."""
    while state and not any(name in own for name in state):
        words = {name.partition(".")[0] for name in state if "." in name}
        if len(words) != 1 or not all("." in name for name in state):
            break
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
    return state


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more or "nothing"
