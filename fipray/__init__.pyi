"""Public names of fipray, each loaded on first use; read by type checkers and by the lazy loader."""

from . import (
    analysis as analysis,
    errors as errors,
    export as export,
    geometry as geometry,
    networks as networks,
    paths as paths,
    recipes as recipes,
    robustness as robustness,
    search as search,
    study as study,
)
from .cluster import RayRunner as RayRunner
from .errors import FiprayError as FiprayError
from .execution import LocalRunner as LocalRunner
from .geometry import Euclidean as Euclidean, FisherRao as FisherRao, keeps as keeps
from .networks import Compute as Compute, Network as Network
from .paths import (
    Examples as Examples,
    Problem as Problem,
    SaveAt as SaveAt,
    Settings as Settings,
    WeightPath as WeightPath,
    augmentations as augmentations,
    connect as connect,
    events as events,
    objectives as objectives,
    radii as radii,
    sparsity as sparsity,
    steppers as steppers,
    walk as walk,
)
from .progress import trace as trace
from .registry import spec as spec
from .robustness import (
    Ensemble as Ensemble,
    ThreatModel as ThreatModel,
    attacks as attacks,
    measures as measures,
)
from .study import (
    Data as Data,
    DataRef as DataRef,
    EnsembleSpec as EnsembleSpec,
    Evaluation as Evaluation,
    PathSpec as PathSpec,
    Study as Study,
    Task as Task,
)

__version__: str
