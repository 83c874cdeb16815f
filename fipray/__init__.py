"""fipray: functionally invariant paths through the weight space of a network, many at once, on Ray.

The names below are resolved on first use, so `import fipray` loads neither torch nor ray nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_CATALOGUE = {
    "fipray.geometry": ("Network", "FisherRao", "Euclidean", "Heads", "Metric", "functional_distance"),
    "fipray.paths": (
        "AdaptiveRadius",
        "Vaccinate",
        "Smooth",
        "Resist",
        "MoveAway",
        "Disagree",
        "Adversary",
        "Corrected",
        "Diversify",
        "FirstOrderStep",
        "FunctionalDistanceAbove",
        "InputNullSpaceStep",
        "KroneckerStep",
        "BlackBox",
        "Connection",
        "LossProfile",
        "NaturalStep",
        "ObjectiveBelow",
        "OneShot",
        "Outcome",
        "PathPoint",
        "ProjectedStep",
        "PublishedStep",
        "RandomWalk",
        "SaveAt",
        "ScheduledRadius",
        "Sparsify",
        "Switch",
        "SwitchedRadius",
        "Toward",
        "WeightPath",
        "WeightedSum",
        "aligned",
        "connect",
        "loss_profile",
        "trace",
        "walk",
    ),
    "fipray.robustness": (
        "FGSM",
        "PGD",
        "TargetedPGD",
        "Ensemble",
        "EnsembleAccuracy",
        "MeanOfPairs",
        "Measures",
        "ThreatModel",
        "aurc",
        "auroc",
        "brier",
        "coherence",
        "confidence",
        "disagreement",
        "evaluate",
        "expected_calibration_error",
        "greedy_selection",
        "kappa",
        "measure",
        "nll",
        "q_statistic",
        "selective_accuracy",
        "AutoAttack",
        "FromSurrogates",
        "OnLogits",
        "RandomNoise",
        "RandomSearch",
        "ReweighedPGD",
        "StackedEnsemble",
        "masking_warnings",
        "transfer_matrix",
    ),
    "fipray.study": (
        "Choice",
        "Data",
        "EnsembleSpec",
        "Evaluation",
        "Integers",
        "LocalRunner",
        "LogUniform",
        "PathSpec",
        "Search",
        "Study",
        "Uniform",
    ),
    "fipray.cluster": ("RayRunner",),
    "fipray.cluster.search": ("search",),
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
    from fipray.cluster import (
        RayRunner as RayRunner,
    )
    from fipray.cluster.search import (
        search as search,
    )
    from fipray.errors import (
        CorruptFileError as CorruptFileError,
        DataError as DataError,
        FiprayError as FiprayError,
        NetworkError as NetworkError,
        RecordsError as RecordsError,
        RunError as RunError,
        UsageError as UsageError,
    )
    from fipray.geometry import (
        Euclidean as Euclidean,
        FisherRao as FisherRao,
        Heads as Heads,
        Metric as Metric,
        Network as Network,
        functional_distance as functional_distance,
    )
    from fipray.paths import (
        AdaptiveRadius as AdaptiveRadius,
        Adversary as Adversary,
        BlackBox as BlackBox,
        Connection as Connection,
        Corrected as Corrected,
        Disagree as Disagree,
        Diversify as Diversify,
        FirstOrderStep as FirstOrderStep,
        FunctionalDistanceAbove as FunctionalDistanceAbove,
        InputNullSpaceStep as InputNullSpaceStep,
        KroneckerStep as KroneckerStep,
        LossProfile as LossProfile,
        MoveAway as MoveAway,
        NaturalStep as NaturalStep,
        ObjectiveBelow as ObjectiveBelow,
        OneShot as OneShot,
        Outcome as Outcome,
        PathPoint as PathPoint,
        ProjectedStep as ProjectedStep,
        PublishedStep as PublishedStep,
        RandomWalk as RandomWalk,
        Resist as Resist,
        SaveAt as SaveAt,
        ScheduledRadius as ScheduledRadius,
        Smooth as Smooth,
        Sparsify as Sparsify,
        Switch as Switch,
        SwitchedRadius as SwitchedRadius,
        Toward as Toward,
        Vaccinate as Vaccinate,
        WeightedSum as WeightedSum,
        WeightPath as WeightPath,
        aligned as aligned,
        connect as connect,
        loss_profile as loss_profile,
        trace as trace,
        walk as walk,
    )
    from fipray.robustness import (
        FGSM as FGSM,
        PGD as PGD,
        AutoAttack as AutoAttack,
        Ensemble as Ensemble,
        EnsembleAccuracy as EnsembleAccuracy,
        FromSurrogates as FromSurrogates,
        MeanOfPairs as MeanOfPairs,
        Measures as Measures,
        OnLogits as OnLogits,
        RandomNoise as RandomNoise,
        RandomSearch as RandomSearch,
        ReweighedPGD as ReweighedPGD,
        StackedEnsemble as StackedEnsemble,
        TargetedPGD as TargetedPGD,
        ThreatModel as ThreatModel,
        aurc as aurc,
        auroc as auroc,
        brier as brier,
        coherence as coherence,
        confidence as confidence,
        disagreement as disagreement,
        evaluate as evaluate,
        expected_calibration_error as expected_calibration_error,
        greedy_selection as greedy_selection,
        kappa as kappa,
        masking_warnings as masking_warnings,
        measure as measure,
        nll as nll,
        q_statistic as q_statistic,
        selective_accuracy as selective_accuracy,
        transfer_matrix as transfer_matrix,
    )
    from fipray.study import (
        Choice as Choice,
        Data as Data,
        EnsembleSpec as EnsembleSpec,
        Evaluation as Evaluation,
        Integers as Integers,
        LocalRunner as LocalRunner,
        LogUniform as LogUniform,
        PathSpec as PathSpec,
        Search as Search,
        Study as Study,
        Uniform as Uniform,
    )
