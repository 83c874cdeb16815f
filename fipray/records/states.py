"""Flat weights of a network as the arrays of its module's `state_dict`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fipray.errors import UsageError
from fipray.records.bfloat16 import BFLOAT16, rounded
from fipray.records.store import Store


def state_of(store: Store, weights: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
    """Convert flat weights to arrays named as in the base module's `state_dict()`.

    Args:
        store: results directory; the base weights are read from it.
        weights: flat weights [P].

    Returns:
        Arrays by name, each in the dtype that it has in the base. Parameters come from `weights`; buffers and fixed
        parameters are those of the base.

    Raises:
        UsageError: if the number of weights is not that of the study's network.
    """
    state = store.read_base()
    start = 0
    for names, shape in store.manifest["parameters_of_module"]:
        # With a dtype, because the product of the empty shape of a scalar parameter is the float 1.0.
        stop = start + int(np.prod(shape, dtype=np.int64))
        own, values = state[names[0]].dtype, weights[start:stop].reshape(shape)
        # A parameter that several layers share has several names.
        state |= dict.fromkeys(names, rounded(values) if own == BFLOAT16 else values.astype(own))
        start = stop
    if start != len(weights):
        raise UsageError(f"the study's module has {start} weights; {len(weights)} were given")
    return state
