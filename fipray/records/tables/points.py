"""Rows about single points on a path, and the tasks measured at its end."""

from typing import Annotated

from fipray.records.tables import fields
from fipray.records.tables.columns import Field, Table, row


@row
class PointRow:
    """One row per saved point of a path; step 0 is its start."""

    study: fields.Study
    path_id: fields.PathId
    name: fields.PathName
    step: fields.Step
    sparsity: fields.Sparsity
    functional_distance: fields.Distance
    functional_distance_held_out: fields.DistanceHeldOut
    objective_value: fields.ObjectiveValue
    gain: Annotated[float, Field("decrease of the objective since the start", "of the objective")]
    radius: Annotated[
        float | None, Field("bound on the length of the last step; null if there was none", "of the weights")
    ]
    weights_distance: Annotated[float, Field("Euclidean distance to the weights at the start", "of the weights")]
    clean_accuracy: fields.CleanAccuracy
    seconds: Annotated[float, Field("wall-clock time since the path began", "s")]
    weights_file: fields.WeightsFile
    weights_sha256: fields.WeightsSha256
    attempt: fields.Attempt


@row
class PointMeasureRow:
    """One row per point and user-defined measure of the study."""

    study: fields.Study
    path_id: fields.PathId
    name: fields.PathName
    step: fields.Step
    measure: Annotated[str, Field("name of the measure in the study")]
    value: Annotated[float, Field("measured value", "of the measure")]
    attempt: fields.Attempt


@row
class PointDistanceRow:
    """One row per point and kept quantity, for studies that keep other quantities than the outputs."""

    study: fields.Study
    path_id: fields.PathId
    name: fields.PathName
    step: fields.Step
    kept: Annotated[str, Field("name of the kept quantity in the study")]
    distance: Annotated[float, Field("root-mean-square distance to its target on the steps' inputs", "of its scale")]
    distance_held_out: Annotated[float, Field("the same distance on its held-out inputs", "of its scale")]
    attempt: fields.Attempt


@row
class VariantRow:
    """One row per requested sparsity that a path reached: size and accuracy of the sparse network."""

    study: fields.Study
    path_id: fields.PathId
    name: fields.PathName
    network: Annotated[
        str, Field("name of the variant in `robustness` and `measures`; at the path's end, the path's name")
    ]
    target_sparsity: Annotated[
        float, Field("requested sparsity; the path's pattern defines what it is a fraction of", fields.FRACTION)
    ]
    step: fields.Step
    sparsity: fields.Sparsity
    sparsity_by_layer_json: Annotated[str, Field("sparsity of each parameter with at least 2 dimensions, as JSON")]
    num_weights: Annotated[int, Field("number of weights")]
    non_zeros: Annotated[int, Field("number of non-zero weights")]
    bytes_dense: Annotated[int, Field("size of all weights in float32", "byte")]
    bytes_csr: Annotated[int, Field("size with layers' matrices in compressed sparse row format", "byte")]
    bytes_2_4: Annotated[int | None, Field("size in 2:4 format; null if the zeros do not follow that pattern", "byte")]
    multiply_adds: Annotated[int, Field("multiply-adds of linear layers and convolutions for one input")]
    multiply_adds_non_zero: Annotated[int, Field("multiply-adds with a non-zero weight")]
    functional_distance_held_out: fields.DistanceHeldOut
    clean_accuracy: fields.CleanAccuracy
    weights_file: fields.WeightsFile
    weights_sha256: fields.WeightsSha256
    attempt: fields.Attempt


@row
class TaskRow:
    """One row per path and task: accuracy of the path's end on the task, whether or not the path learned it."""

    study: fields.Study
    path_id: fields.PathId
    name: fields.PathName
    task: Annotated[str, Field("name of the task in the data")]
    task_number: Annotated[int, Field("position of the task in the data, from 1")]
    learned: Annotated[bool, Field("whether learning this task was the path's objective")]
    num_examples: Annotated[int, Field("number of test examples of the task")]
    accuracy_at_start: Annotated[float, Field("accuracy on them at the path's start", fields.FRACTION)]
    accuracy: Annotated[float, Field("accuracy on them at the path's end", fields.FRACTION)]
    attempt: fields.Attempt


POINTS = Table.of("points", PointRow, key=("path_id", "step"))
POINT_MEASURES = Table.of("point_measures", PointMeasureRow, key=("path_id", "step", "measure"))
POINT_DISTANCES = Table.of("point_distances", PointDistanceRow, key=("path_id", "step", "kept"))
VARIANTS = Table.of("variants", VariantRow, key=("path_id", "target_sparsity"))
TASKS = Table.of("tasks", TaskRow, key=("path_id", "task"))
