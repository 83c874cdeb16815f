"""Networks of torchvision, timm and Hugging Face by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fipray.errors import FiprayError, UsageError
from fipray.study.parsing import literal

Options = Mapping[str, str]


def of_torchvision(name: str, options: Options) -> nn.Module:
    """Make a network of torchvision.

    Args:
        name: such as "resnet18".
        options: `weights`, such as "DEFAULT", and arguments of the network's function, such as `num_classes`. With
            another number of classes than the weights have, the last layer is new.

    Returns:
        The network.

    Raises:
        UsageError: for unknown names, weights and options, and for weights that cannot be downloaded.
    """
    models = _installed("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise UsageError(f"torchvision has no network {name!r}{_near(name, models.list_models())}")
    values = {option: literal(text) for option, text in options.items() if option != "weights"}
    text = options.get("weights", "none")
    if text.lower() == "none":
        with _made(f"torchvision:{name}"):
            return models.get_model(name, weights=None, **values)
    known = models.get_model_weights(name)
    if text not in known.__members__:
        raise UsageError(f"{name} has no weights {text!r}; it has: {', '.join(known.__members__)}")
    weights = known[text]
    with _made(f"torchvision:{name}"):
        if values.get("num_classes", len(weights.meta["categories"])) == len(weights.meta["categories"]):
            return models.get_model(name, weights=weights, progress=False, **values)
        module = models.get_model(name, weights=None, **values)
        _load_all_but_the_head(module, weights.get_state_dict(progress=False, check_hash=True), name)
        return module


def _load_all_but_the_head(module: nn.Module, state: Mapping[str, Any], name: str) -> None:
    own = module.state_dict()
    fitting = {key: tensor for key, tensor in state.items() if key in own and own[key].shape == tensor.shape}
    new = [key for key in own if key not in fitting]
    module.load_state_dict(fitting, strict=False)
    warnings.warn(
        f"{name} is loaded with another number of classes than its weights: {', '.join(new)} are new and random. "
        "Train them, and give the result as state=FILE",
        stacklevel=2,
    )


def of_timm(name: str, options: Options) -> nn.Module:
    """Make a network of timm.

    Args:
        name: such as "vit_tiny_patch16_224".
        options: `pretrained`, `checkpoint` (a file of weights) and arguments of `timm.create_model`.

    Returns:
        The network.

    Raises:
        UsageError: if timm is not installed, and for unknown names and options, and weights that cannot be had.
    """
    timm = _installed("timm", "timm")
    if not timm.is_model(name):
        raise UsageError(f"timm has no network {name!r}{_near(name, timm.list_models())}")
    values = {option: literal(text) for option, text in options.items() if option != "checkpoint"}
    if checkpoint := options.get("checkpoint"):
        if not Path(checkpoint).expanduser().is_file():
            raise UsageError(f"there is no file {checkpoint}")
        values["checkpoint_path"] = str(Path(checkpoint).expanduser())
    with _made(f"timm:{name}"):
        return timm.create_model(name, **values)


def of_hugging_face(name: str, options: Options) -> nn.Module:
    """Load a classifier of Hugging Face.

    Args:
        name: name on their hub, or a directory that `save_pretrained` wrote, which needs no connection.
        options: arguments of `from_pretrained`, such as `revision`.

    Returns:
        The network for image or sequence classification.

    Raises:
        UsageError: if transformers is not installed, for a name that cannot be loaded, and for a network without a
            classification head.
    """
    transformers = _installed("transformers", "transformers")
    values = {option: literal(text) for option, text in options.items()}
    if Path(name).expanduser().is_dir():
        name, values["local_files_only"] = str(Path(name).expanduser()), True
    with _made(f"hf:{name}"):
        config = transformers.AutoConfig.from_pretrained(name, **values)
        return _head(transformers, name, config).from_pretrained(name, **values)


_HEADS = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}


def _head(transformers: Any, name: str, config: Any) -> Any:
    architectures = config.architectures or []
    for ending, auto in _HEADS.items():
        if any(architecture.endswith(ending) for architecture in architectures):
            return getattr(transformers, auto)
    raise UsageError(
        f"hf:{name} is {', '.join(architectures) or config.model_type}, which has no classification head: give one "
        f"whose architecture ends in {' or '.join(_HEADS)}, or a function of your own as module:function"
    )


HUBS: dict[str, Callable[[str, Options], nn.Module]] = {
    "torchvision": of_torchvision,
    "timm": of_timm,
    "hf": of_hugging_face,
}


def _installed(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"{package} is not installed ({error}): pip install {package}") from error


def _near(name: str, names: Iterable[str]) -> str:
    found = list(names)
    near = get_close_matches(name, found, 3) or sorted(each for each in found if name.lower() in each)[:3]
    return f"; similar: {', '.join(near)}" if near else f"; it has {len(found)} others"


@contextmanager
def _made(what: str) -> Iterator[None]:
    """Draw new weights from a seed, so that they are the same in every run, and explain errors of other libraries."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    except FiprayError:
        raise
    except Exception as error:  # downloads and foreign code fail in many ways
        reason = " ".join(str(error).split())
        raise UsageError(f"{what} cannot be made: {type(error).__name__}: {reason}") from error
