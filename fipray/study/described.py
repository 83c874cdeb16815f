"""Ensembles and inputs of a study as its manifest describes them, for whoever builds its networks again."""

from __future__ import annotations

from collections.abc import Sequence
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
        For each ensemble, by name: its members, whether "probabilities" or "outputs" are averaged, and the dimension of
        the classes. Outputs are averaged where nothing says that they are those of classifiers.
    """
    is_classifier = is_evaluated or isinstance(geometry, FisherRao)
    dim = 1 if is_evaluated or not isinstance(geometry, FisherRao) or geometry.dim is None else geometry.dim
    average = "probabilities" if is_classifier else "outputs"
    return {each.name: {"members": list(each.members), "average": average, "dim": dim} for each in ensembles}


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
