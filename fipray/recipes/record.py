"""Choices of a recipe as the manifest of a results directory records them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fipray.errors import RecordsError, UsageError
from fipray.networks import Compute
from fipray.records import Store

Plain = bool | int | float | str
RECIPE, CHOSEN, GIVEN, REASONS, RESULTS, THREADS = "recipe", "chosen.", "given.", "reasons", "results", "threads"


def recorded(
    into: str | Path, recipe: str, parameters: Mapping[str, Plain]
) -> tuple[dict[str, Plain], tuple[str, ...]] | None:
    """Read the choices that an earlier run of a recipe recorded.

    Args:
        into: results directory or address.
        recipe: name of the recipe.
        parameters: its parameters as given now.

    Returns:
        Values and reasons; None where there is no results directory yet.

    Raises:
        UsageError: for a directory of another recipe, or one that was made with other parameters.
    """
    try:
        manifest = Store.open(into).manifest
    except RecordsError:
        return None  # what is there instead, the run itself finds out
    stored = manifest["parameters"]
    if stored.get(RECIPE) != recipe:
        what = f"recipe {stored[RECIPE]!r}" if RECIPE in stored else f"study {manifest['study']!r}"
        raise UsageError(f"{into} holds {what}, not recipe {recipe!r}: choose another directory")
    # Before the trial, which takes a while: `Study` would refuse the directory only after it.
    differences = [
        f"{name} is {stored.get(name, 'not set')!r} there and {value!r} here"
        for name, value in parameters.items()
        if name not in stored or stored[name] != value
    ]
    differences += [
        f"{name} is {stored[name]!r} there" for name in stored if name.startswith(GIVEN) and name not in parameters
    ]
    if differences:
        raise UsageError(
            f"{into} holds recipe {recipe!r} with other parameters: {'; '.join(differences)}. Choose another "
            "directory, or give the same parameters"
        )
    values = {name.removeprefix(CHOSEN): value for name, value in stored.items() if name.startswith(CHOSEN)}
    return values, tuple(str(stored.get(REASONS, "")).splitlines())


def recorded_threads(into: str | Path) -> int | None:
    """Read how many CPU threads the workers of an earlier run had.

    Args:
        into: results directory or address.

    Returns:
        The number; None where there is no results directory of a recipe yet.
    """
    try:
        return Store.open(into).manifest["parameters"].get(THREADS)
    except RecordsError:
        return None


def recorded_compute(into: str | Path, precision: str | None) -> Compute:
    """Read how the passes of an earlier run were computed.

    Args:
        into: results directory of a recipe, or its address.
        precision: precision that is asked for; None to take any.

    Returns:
        Precision, memory format and size of the passes.

    Raises:
        UsageError: where the earlier run had another precision, which would give its paths other IDs.
    """
    earlier = Compute(**Store.open(into).manifest.get("compute", {}))
    if precision not in (None, earlier.precision):
        raise UsageError(
            f"{into} holds results in precision {earlier.precision!r}, and {precision!r} is asked for: choose another "
            f"directory, or give no precision, which goes on with {earlier.precision!r}"
        )
    return earlier
