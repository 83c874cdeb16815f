"""fipray: functionally invariant paths through the weight space of a network, many at once, on Ray.

The names below are resolved on first use, so `import fipray` loads neither torch nor ray nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_CATALOGUE = {
    "fipray.geometry": ("Network", "FisherRao", "Euclidean", "Metric", "functional_distance"),
    "fipray.paths": (
        "AdaptiveRadius",
        "Diversify",
        "FirstOrderStep",
        "FunctionalDistanceAbove",
        "NaturalStep",
        "ObjectiveBelow",
        "OneShot",
        "Outcome",
        "PathPoint",
        "PublishedStep",
        "SaveAt",
        "ScheduledRadius",
        "Sparsify",
        "WeightPath",
        "trace",
        "walk",
    ),
    "fipray.robustness": ("FGSM", "PGD", "TargetedPGD", "Ensemble", "ThreatModel", "evaluate", "transfer_matrix"),
    "fipray.study": ("Data", "EnsembleSpec", "Evaluation", "LocalRunner", "PathSpec", "Study"),
    "fipray.cluster": ("RayRunner",),
    "fipray.errors": (
        "CorruptFileError",
        "DataError",
        "FiprayError",
        "NetworkError",
        "RecordsError",
        "RunError",
        "UsageError",
    ),
}
_HOME = {name: module for module, names in _CATALOGUE.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fipray' has no name {name!r}; it has: {', '.join(sorted(_HOME))}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from fipray.cluster import RayRunner as RayRunner
