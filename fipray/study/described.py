"""Ensembles and inputs of a study as its manifest describes them, for whoever builds its networks again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fipray.geometry import FisherRao, OutputGeometry
from fipray.study.referenced import Array, extremes
from fipray.study.specs import EnsembleSpec


def ensembles_described(
    ensembles: Sequence[EnsembleSpec], geometry: OutputGeometry, is_evaluated: bool
) -> dict[str, dict[str, Any]]:
    """Describe ensembles.

    Args:
        ensembles: specs of the ensembles.
        geometry: output geometry of the study.
        is_evaluated: whether the study evaluates its networks, all of which are classifiers then.

    Returns:
        For each ensemble, by name: its members, whether "probabilities" or "outputs" are averaged, the dimension of
        the classes, and weights and temperatures of the members if there are any.
    """
    dim = 1 if is_evaluated or not isinstance(geometry, FisherRao) or geometry.dim is None else geometry.dim
    average = average_of(geometry, is_evaluated)
    return {
        each.name: {"members": list(each.members), "average": average, "dim": dim, **_mixing(each)}
        for each in ensembles
    }


def average_of(geometry: OutputGeometry, is_evaluated: bool) -> str:
    """Quantity that ensembles of a study average.

    Args:
        geometry: output geometry of the study.
        is_evaluated: whether the study evaluates its networks, all of which are classifiers then.

    Returns:
        "probabilities"; "outputs" where nothing says that they are those of classifiers.
    """
    return "probabilities" if is_evaluated or isinstance(geometry, FisherRao) else "outputs"


def _mixing(ensemble: EnsembleSpec) -> dict[str, list[float]]:
    numbers = {} if ensemble.mixing is None else asdict(ensemble.mixing)
    return {name: list(each) for name, each in numbers.items() if each}


def inputs_described(inputs: Array) -> dict[str, Any]:
    """Describe what inputs look like, without their values.

    Args:
        inputs: inputs [N, ...].

    Returns:
        Shape of one input, dtype, and the smallest and largest number in it; by reference, those of a few inputs.
    """
    low, high = (value.item() for value in extremes(inputs))
    return {
        "shape": list(inputs.shape[1:]),
        "dtype": inputs.dtype.name,
        # Plain numbers, also of booleans.
        **{name: value if isinstance(value, float) else int(value) for name, value in (("low", low), ("high", high))},
    }
