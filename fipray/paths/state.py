"""State of a stepper between steps: tensors by name, and who may write to them."""

from __future__ import annotations

from torch import Tensor

from fipray.errors import UsageError

State = dict[str, Tensor]
"""State of a stepper: tensors by name, without a graph."""


class OwnedState(State):
    """State whose tensors nothing else needs, so that a stepper may overwrite them, see `taken`.

    Attributes:
        is_taken: whether a stepper has taken it over.
    """

    is_taken = False


def taken(state: State) -> State:
    """Take over a state in order to write to its tensors.

    Copying the moments of a large network takes a fifth of the time of a step. A caller that needs the state no longer
    therefore gives an `OwnedState`.

    Args:
        state: state that a stepper was given.

    Returns:
        The tensors of an `OwnedState`, or copies of those of any other state.

    Raises:
        UsageError: for an `OwnedState` that was taken before.
    """
    if not isinstance(state, OwnedState):
        return {name: value.clone() for name, value in state.items()}
    if state.is_taken:
        raise UsageError(
            "propose() was called twice with a state that the first call overwrites: give the stepper a copy, "
            "{name: value.clone() for name, value in state.items()}"
        )
    state.is_taken = True
    return dict(state)


def part_of_state(state: State, tensors: State) -> State:
    """State of an inner stepper, owned where that of the composed one is.

    Args:
        state: state of the composed stepper.
        tensors: some of its tensors, under the inner stepper's names.

    Returns:
        The inner stepper's state.
    """
    return OwnedState(tensors) if isinstance(state, OwnedState) else tensors


def versions_of(state: State) -> list[int]:
    """Count the in-place writes to each tensor of a state.

    Args:
        state: state of a stepper.

    Returns:
        A number for each tensor, which a write increases.
    """
    return [tensor._version for tensor in state.values()]
