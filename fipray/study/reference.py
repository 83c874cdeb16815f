"""Studies, searches, networks and data by reference: `module:function`, `file.py:function` and others."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from fipray.errors import FiprayError, NetworkError, UsageError
from fipray.networks import Normalised, copied
from fipray.study.code.ownership import is_own_file
from fipray.study.data import Data
from fipray.study.hubs import HUBS
from fipray.study.parameters import call, parse
from fipray.study.parsing import literal, number
from fipray.study.script import loaded
from fipray.study.search import Search
from fipray.study.sources import resized
from fipray.study.states import load_state
from fipray.study.study import Study

__all__ = ["StudyFunction", "build", "called", "data_of", "find", "module_of", "parse"]

StudyFunction = Callable[..., Any]
Asked = TypeVar("Asked", Study, Search)
NUM_FRAMES = 4
"""Frames of the user's own code that are shown below an error message."""


def find(reference: str) -> StudyFunction:
    """Import a function by reference.

    Args:
        reference: `module:function` or `file.py:function`.

    Returns:
        Function.

    Raises:
        UsageError: for an unknown function, with those that exist, and for a module that cannot be imported.
    """
    # From the right: a file name on Windows has a colon of its own, after the drive.
    module_name, colon, function_name = reference.rpartition(":")
    if not (module_name and colon and function_name):
        raise UsageError(
            "name a study as module:function, such as experiments.quickstart:study, or as file.py:function, such as "
            f"./study.py:study; got {reference!r}"
        )
    module = _module(module_name)
    function = getattr(module, function_name, None)
    if not inspect.isfunction(function):
        defined = [
            name
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        public = sorted(name for name in defined if not name.startswith("_"))
        raise UsageError(f"{module_name} has no function {function_name!r}; it has: {', '.join(public) or 'none'}")
    return function


def build(function: StudyFunction, values: dict[str, Any], asked: type[Asked]) -> Asked:
    """Call a study function.

    Args:
        function: study function.
        values: its arguments by name.
        asked: class to return, `Study` or `Search`.

    Returns:
        Study or search.

    Raises:
        UsageError: for a function that returns anything else, or whose own code fails.
    """
    name, kind = function.__qualname__, asked.__name__
    made = called(function, values, kind.lower())
    if not isinstance(made, asked):
        name_of_class = "search.Search" if kind == "Search" else kind
        raise UsageError(
            f"{name} returned a {type(made).__name__}; a {kind.lower()} function must return a fipray.{name_of_class}"
        )
    return made


def called(function: StudyFunction, values: dict[str, Any], kind: str) -> Any:
    """Call a function of the user's own.

    Args:
        function: function.
        values: its arguments by name.
        kind: what it makes, for the message.

    Returns:
        What it returns.

    Raises:
        UsageError: if its own code fails.
    """
    try:
        return call(function, values)
    except FiprayError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UsageError(_failed(f"{function.__qualname__} could not make its {kind}", error)) from error


def module_of(text: str) -> nn.Module:
    """Make a network by reference.

    Args:
        text: one of the following, then `?` and options `NAME=VALUE` joined by `&`:

            - `module:function` or `path/to/file.py:function`: a function or class that returns a module when it is
              called with the options, or a module itself
            - `torchvision:NAME`, such as `torchvision:resnet18?weights=DEFAULT&num_classes=10`
            - `timm:NAME`, such as `timm:vit_tiny_patch16_224?pretrained=true`, or with `checkpoint=FILE`
            - `hf:NAME` or `hf:DIRECTORY`: classifier of images or sequences of Hugging Face

            Options of all of them: `state=FILE` loads a state_dict (.safetensors, .pt, .pth), and `mean=0.5,0.4,0.4`
            with `std=...` normalises inputs of 0..1, see `fipray.networks.Normalised`.

    Returns:
        Network in evaluation mode.

    Raises:
        UsageError: for an unknown name or option, with similar ones; for what cannot be made; and for a file that
            cannot be read.
        NetworkError: for a state of another architecture.
    """
    place, options = _options(text)
    scheme, _, name = place.partition(":")
    # A parameter of the user's own function comes before an option of the same name.
    own = () if scheme in HUBS else _parameters(place)
    extras = {option: options.pop(option) for option in _EXTRAS if option in options and option not in own}
    module = HUBS[scheme](name, options) if scheme in HUBS else _own_module(place, options)
    if state := extras.get("state"):
        load_state(module, state)
    if ("mean" in extras) != ("std" in extras):
        raise UsageError(f"{text!r}: mean and std must be given together")
    if "mean" in extras:
        module = Normalised(module, *([number(one) for one in extras[name].split(",")] for name in ("mean", "std")))
    return module.eval()


def data_of(text: str) -> Data:
    """Make data by reference.

    Args:
        text: one of the following, then `?` and options `NAME=VALUE` joined by `&`:

            - `module:function` or `path/to/file.py:function`: a function that returns a `Data`, or anything that
              `Data.of` takes, when it is called with those options that it has
            - a folder of images, with `size=64` to resize and crop them
            - the path of an .npz or .npy file

            Options of all of them: `num_held_out`, `limit`, `seed`, `mean`, `std` of `Data.of`, and `test=PATH`.

    Returns:
        Data.

    Raises:
        UsageError: for an unknown name or option, with similar ones.
        DataError: see `Data.of`.
    """
    place, options = _options(text)
    if ":" in place and not Path(place).expanduser().exists():
        return _own_data(place, options)
    return Data.of(place, **_data_options(place, options))


_EXTRAS = ("state", "mean", "std")
_DATA_OPTIONS = ("num_held_out", "limit", "seed", "mean", "std", "test", "size")


def _options(text: str) -> tuple[str, dict[str, str]]:
    place, mark, rest = text.partition("?")
    options = {}
    for part in rest.split("&") if mark else ():
        name, equals, value = part.partition("=")
        if not (name and equals):
            raise UsageError(f"{text!r}: what follows the question mark must be NAME=VALUE, joined by &; got {part!r}")
        options[name] = value
    return place, options


def _parameters(place: str) -> tuple[str, ...]:
    found = _named(place)
    return () if isinstance(found, nn.Module) else tuple(inspect.signature(found).parameters)


def _own_module(place: str, options: Mapping[str, str]) -> nn.Module:
    found = _named(place)
    if isinstance(found, nn.Module):
        if options:
            raise UsageError(f"{place} is a module and no function, so it takes no option {next(iter(options))!r}")
        return copied(found)
    made = _called(place, found, options)
    if not isinstance(made, nn.Module):
        raise NetworkError(f"{place} returned a {type(made).__name__}; it must return a torch.nn.Module")
    return made


def _own_data(place: str, options: dict[str, str]) -> Data:
    found = _named(place)
    if not callable(found):
        return Data.of(found, **_data_options(place, options))
    own = inspect.signature(found).parameters
    made = _called(place, found, {name: text for name, text in options.items() if name in own})
    rest = {name: text for name, text in options.items() if name not in own}
    if not isinstance(made, Data):
        return Data.of(made, **_data_options(place, rest))
    if rest:
        raise UsageError(
            f"{place} returns a Data, and has no parameter {next(iter(rest))!r}; it has: {', '.join(own) or 'none'}"
        )
    return made


def _data_options(place: str, options: Mapping[str, str]) -> dict[str, Any]:
    if unknown := [name for name in options if name not in _DATA_OPTIONS]:
        raise UsageError(f"{place}: there is no option {unknown[0]!r}; there are: {', '.join(_DATA_OPTIONS)}")
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name in ("mean", "std"):
            values[name] = [number(one) for one in text.split(",")]
        elif name == "test":
            values[name] = text
        elif not isinstance(count := literal(text), int):
            raise UsageError(f"{place}: {name} must be a whole number, got {text!r}")
        elif name == "size":
            values["transform"] = resized(count)
        else:
            values[name] = count
    return values


def _called(place: str, function: Any, options: Mapping[str, str]) -> Any:
    values = parse(function, [f"{name}={text}" for name, text in options.items()])
    try:
        return call(function, values)
    except FiprayError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UsageError(_failed(f"{place} failed", error)) from error


def _named(place: str) -> Any:
    """Object that a reference names: a function, a class, a module or an array."""
    module_name, colon, name = place.rpartition(":")
    if not (module_name and colon and name):
        raise UsageError(
            f"{place!r} is no reference: give module:function, path/to/file.py:function, or for a network "
            f"{', '.join(f'{hub}:NAME' for hub in HUBS)}, and for data a folder of images or the path of an .npz file"
        )
    module = _module(module_name)
    if not hasattr(module, name):
        names = [each for each in vars(module) if not each.startswith("_")]
        near = get_close_matches(name, names, 3)
        raise UsageError(f"{module_name} has no {name!r}" + (f"; similar: {', '.join(near)}" if near else ""))
    return getattr(module, name)


def _module(name: str) -> ModuleType:
    is_file = name.endswith(".py") or "/" in name or "\\" in name
    try:
        return loaded(Path(name)) if is_file else import_module(name)
    except FiprayError:
        raise
    except ModuleNotFoundError as error:
        # The module itself is missing, or a package around it; otherwise it imports a module that is missing.
        if not is_file and error.name and (name == error.name or name.startswith(f"{error.name}.")):
            beside = f"; for the file {name}.py in this folder, use ./{name}.py:" if Path(f"{name}.py").exists() else ""
            raise UsageError(
                f"there is no module {error.name!r}: run from the folder that contains it, or add that to "
                f"PYTHONPATH{beside}"
            ) from error
        raise UsageError(f"{name} needs the module {error.name!r}, which is not installed") from error
    except SyntaxError as error:
        raise UsageError(f"{error.filename}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from error
    except (Exception, SystemExit) as error:  # the module's own code may raise anything
        raise UsageError(_failed(f"{name} could not be imported", error)) from error


def _failed(what: str, error: BaseException) -> str:
    """Message with the file and line of the innermost frame of the user's own code, and the frames above it."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_own_file(frame.filename)]
    if not frames:
        return f"{what}: {reason}"
    lines = [
        f"  {frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames[-NUM_FRAMES:]
    ]
    return "\n".join([f"{what}: {reason} ({frames[-1].filename}, line {frames[-1].lineno})", *lines])
