"""Fields that several tables share, each defined once."""

from typing import Annotated, TypeAlias

from fipray.records.tables.columns import Field

FRACTION = "fraction 0..1"
RADIAN = "radian (Fisher-Rao)"

Study: TypeAlias = Annotated[str, Field("name of the study")]
PathId: TypeAlias = Annotated[str, Field("ID of the path: hash of its canonical spec")]
PathName: TypeAlias = Annotated[str, Field("name of the path within the study")]
NetworkName: TypeAlias = Annotated[str, Field("name of the network: base, or that of a path, variant or ensemble")]
NetworkKind: TypeAlias = Annotated[str, Field("kind of the network: base, path, variant or ensemble")]
NumMembers: TypeAlias = Annotated[int, Field("number of members of the ensemble; 1 for a single network")]

Step: TypeAlias = Annotated[int, Field("number of steps from the path's start to this point")]
NumSteps: TypeAlias = Annotated[int, Field("number of steps that were taken")]
Sparsity: TypeAlias = Annotated[float, Field("fraction of weights that are zero", unit=FRACTION)]
Distance: TypeAlias = Annotated[
    float, Field("functional distance to the path's start (root mean square over the anchor inputs)", unit=RADIAN)
]
DistanceHeldOut: TypeAlias = Annotated[
    float | None, Field("functional distance to the path's start on held-out inputs; null without any", unit=RADIAN)
]
ObjectiveValue: TypeAlias = Annotated[
    float, Field("value of the secondary objective; lower is better", unit="of the objective")
]
CleanAccuracy: TypeAlias = Annotated[
    float | None, Field("accuracy on the test inputs; null without labels", unit=FRACTION)
]
Outcome: TypeAlias = Annotated[str, Field("why the path ended, as a sentence")]
OutcomeKind: TypeAlias = Annotated[
    str, Field("why the path ended: completed, stopped, stuck, not finite, given up or paused")
]

WeightsFile: TypeAlias = Annotated[
    str | None, Field("safetensors file of the weights, relative to the directory; null if not saved")
]
WeightsSha256: TypeAlias = Annotated[str | None, Field("SHA-256 of that file in hexadecimal; null if not saved")]

Attack: TypeAlias = Annotated[str, Field("name of the attack; `worst` is the worst of all attacks on each example")]
Norm: TypeAlias = Annotated[str, Field("norm of the threat model: linf or l2")]
Epsilon: TypeAlias = Annotated[float, Field("largest norm of a perturbation", unit="of the inputs")]
NumExamples: TypeAlias = Annotated[int, Field("number of examples that the accuracies are measured on")]

Seconds: TypeAlias = Annotated[float, Field("wall-clock time spent on this row", unit="s")]
Attempt: TypeAlias = Annotated[int, Field("number of the attempt that produced this row, from 1")]
Host: TypeAlias = Annotated[str, Field("name of the machine that did the work")]
NodeId: TypeAlias = Annotated[str | None, Field("the cluster's ID of that machine; null without a cluster")]
WorkerId: TypeAlias = Annotated[str | None, Field("the cluster's ID of the worker; null without a cluster")]
Device: TypeAlias = Annotated[str, Field("device that the path was traced on, such as cpu or cuda:0")]
