"""Random numbers drawn in a forward pass: detection, effect on the outputs, and the part that draws them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fipray.errors import FiprayError, NetworkError
from fipray.networks.checks.passes import agree, kind_of, tried
from fipray.networks.functional_module import FunctionalModule
from fipray.networks.modules import contents, described
from fipray.networks.parameters import listed

_CHANCES = ("p", "drop_prob", "dropout", "drop_rate", "droprate")  # attributes in which layers keep a drop probability
# Values that replace uniform draws, in turns. Any probability that a draw is compared with lies between 0 and 1, so
# these take either branch of each comparison, however rare it is.
_EXTREMES = ((0,), (1,), (0, 1), (1, 0))


@dataclass(frozen=True)
class _Source:
    """A random number generator: functions that read its state, restore it, and seed it."""

    get: Callable[[], Any]
    put: Callable[[Any], object]
    seed: Callable[[int], object]
    of_torch: bool = False


@contextmanager
def kept_randomness(network: FunctionalModule) -> Iterator[None]:
    """Restore the states of all generators that a forward pass may draw from.

    Args:
        network: the network, whose module may hold generators of its own.

    Yields:
        Nothing.
    """
    before = [(source, source.get()) for source in _sources(network)]
    try:
        yield
    finally:
        for source, state in before:
            source.put(state)


def check_draws(network: FunctionalModule, inputs: Tensor) -> Tensor:
    """Check that outputs do not depend on random numbers.

    Comparing two passes finds dropout, but not a layer that drops its input once in a hundred passes. Instead, states
    of generators show whether a pass draws at all, and extreme values in place of the draws show whether outputs depend
    on them. Draws that the forward seeds itself, or draws of torch that it does not use, are allowed.

    Args:
        network: the network.
        inputs: [N, ...].

    Returns:
        Outputs [N, ...] at the network's own weights.

    Raises:
        NetworkError: naming the part that draws, if outputs depend on random numbers.
    """
    sources = _sources(network)
    before = _states(sources)
    outputs = tried(network, network.weights, inputs)
    after = _states(sources)
    if before == after:
        return outputs
    for source in sources:
        source.seed(1)
    tried(network, network.weights, inputs)
    again = _states(sources)
    # A source that draws has a third state after a pass from another seed; one that the forward seeds has the second.
    drawing = [source for source, *states in zip(sources, before, after, again, strict=True) if len(set(states)) == 3]
    if not drawing:  # the forward seeds its generators itself
        return outputs
    parts: list[str] = []
    fixed = all(source.of_torch for source in drawing)  # draws of numpy and random cannot be replaced
    for values in _EXTREMES:
        with _Replacing(network, values) as replacing:
            fixed = _same(network, inputs, outputs) and fixed
        parts += replacing.parts
    if not fixed:
        names = list(dict.fromkeys(parts)) or _dropping(network)
        raise refusal(
            network, f", as {listed(names)} draws random numbers" if names else ", as it draws random numbers"
        )
    return outputs


def refusal(network: FunctionalModule, cause: str) -> NetworkError:
    """Error for outputs that differ between passes.

    Args:
        network: the network.
        cause: words to add on the cause, with a comma before them; empty where it is unknown.

    Returns:
        The error, to raise.
    """
    return NetworkError(
        f"the output of {kind_of(network)} changes between two passes over the same inputs{cause} (active dropout, "
        "stochastic depth or other randomness), so it is not a function of its weights: call module.eval() first, or "
        "make it deterministic"
    )


def _same(network: FunctionalModule, inputs: Tensor, expected: Tensor) -> bool:
    try:
        return agree(network, expected, tried(network, network.weights, inputs))
    except FiprayError:  # the forward fails at such values, so it uses them
        return False


class _Replacing(TorchDispatchMode):
    """Context that replaces random draws, except normal numbers, by the `values` in turns, and records who draws.

    Attributes:
        parts: the parts in whose forward something was drawn.
    """

    def __init__(self, network: FunctionalModule, values: tuple[int, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = {id(part): described(name, part) for name, part in network.parts()}
        self._sources = [source for source in _sources(network) if source.of_torch]
        self._values = cycle(values)
        self.parts: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # The tag marks operators that may draw. Many of their calls do not, so states are compared below.
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **(kwargs or {}))
        given = (kwargs or {}).get("generator")
        sources = self._sources if given is None else [*self._sources, _of_torch(given)]
        before = _states(sources)
        result = func(*args, **(kwargs or {}))
        if _states(sources) != before:
            self.parts += _innermost(self._places, sys._getframe())
            # Normal numbers have no bounds, so no extreme values stand for all of them: their states alone count.
            if "normal" not in func.__name__ and "randn" not in func.__name__:
                value = next(self._values)
                for tensor in result if isinstance(result, (tuple, list)) else [result]:
                    if isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.dtype == torch.bool):
                        tensor.fill_(value)
        return result


def _innermost(places: dict[int, str], frame: FrameType | None) -> list[str]:
    """Find the innermost part in whose forward a frame is; empty outside of all."""
    while frame is not None:
        owner = id(frame.f_locals.get("self"))
        if owner in places and frame.f_code.co_name == "forward":
            return [places[owner]]
        frame = frame.f_back
    return []


def _dropping(network: FunctionalModule) -> list[str]:
    """Parts in training mode with a positive drop probability."""

    def chance(part: nn.Module) -> bool:
        found = [getattr(part, name, 0) for name in _CHANCES]
        return any(isinstance(one, (int, float)) and one > 0 for one in found)

    return [described(name, part) for name, part in network.parts() if part.training and chance(part)]


def _sources(network: FunctionalModule) -> list[_Source]:
    """List the global generators of torch, random and numpy, and those that the module holds."""
    found = [
        _of_torch(torch.default_generator),
        _Source(random.getstate, random.setstate, random.seed),
        _Source(np.random.get_state, np.random.set_state, np.random.seed),
    ]
    device = network.weights.device
    if device.type != "cpu":
        backend = torch.get_device_module(device)
        found.append(
            _Source(
                lambda: backend.get_rng_state(device),
                lambda state: backend.set_rng_state(state, device),
                lambda seed: backend.set_rng_state(torch.Generator(device).manual_seed(seed).get_state(), device),
                of_torch=True,
            )
        )
    held = [one for _, part in network.parts() for value in vars(part).values() for one in (value, *contents(value))]
    return found + [source for one in held for source in _held(one)]


def _held(value: Any) -> Iterator[_Source]:
    if isinstance(value, torch.Generator):
        yield _of_torch(value)
    elif isinstance(value, random.Random):
        yield _Source(value.getstate, value.setstate, value.seed)
    elif isinstance(value, np.random.RandomState):
        yield _Source(value.get_state, value.set_state, value.seed)
    elif isinstance(value, np.random.Generator):
        bits = value.bit_generator
        yield _Source(
            lambda: bits.state,
            lambda state: setattr(bits, "state", state),
            lambda seed: setattr(bits, "state", type(bits)(seed).state),
        )


def _of_torch(generator: torch.Generator) -> _Source:
    return _Source(generator.get_state, generator.set_state, generator.manual_seed, of_torch=True)


def _states(sources: list[_Source]) -> list[Any]:
    return [_plain(source.get()) for source in sources]


def _plain(state: Any) -> Any:
    """Convert a generator's state to an immutable value that can be compared."""
    if isinstance(state, Tensor):
        return state.cpu().numpy().tobytes()
    if isinstance(state, np.ndarray):
        return state.tobytes()
    if isinstance(state, dict):
        return tuple((key, _plain(value)) for key, value in state.items())
    return tuple(map(_plain, state)) if isinstance(state, (tuple, list)) else state
