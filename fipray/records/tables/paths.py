"""Rows about a path as a whole: its end, its rounds, and the search trial that it belongs to."""

from typing import Annotated

from fipray.records.tables import fields
from fipray.records.tables.columns import Field, Table, row


@row
class PathRow:
    """One row per path: its spec, how it ended, and the state of its last point."""

    study: fields.Study
    path_id: fields.PathId
    name: fields.PathName
    start: Annotated[str, Field("network that the path starts from: base, or the name of a path or variant")]
    parent_path_id: Annotated[str | None, Field("path_id of the path that this one continues; null from the base")]
    seed: Annotated[int, Field("seed of the path's random generator")]
    objective: Annotated[str, Field("kind of the secondary objective")]
    stepper: Annotated[str, Field("kind of the stepper")]
    spec_json: Annotated[str, Field("canonical spec of the path, as JSON")]
    outcome: fields.Outcome
    outcome_kind: fields.OutcomeKind
    num_steps: fields.NumSteps
    sparsity: fields.Sparsity
    functional_distance: fields.Distance
    functional_distance_held_out: fields.DistanceHeldOut
    objective_value: fields.ObjectiveValue
    objective_start: Annotated[float, Field("objective at the path's start, on the same inputs", "of the objective")]
    objective_end: Annotated[float, Field("objective at the path's end; equals objective_value", "of the objective")]
    clean_accuracy: fields.CleanAccuracy
    accuracy_collapsed_step: Annotated[
        int | None,
        Field(
            "first saved step at which accuracy on test inputs was more than 10 percentage points, and more than four "
            "standard errors of the difference, below that of the start; null if there was none, or without labels"
        ),
    ]
    warnings: Annotated[
        str, Field("problems such as an objective that did not improve or a collapsed accuracy; or empty")
    ]
    anchor_bytes: Annotated[int, Field("size of the anchor inputs", "byte")]
    memory_bytes: Annotated[int, Field("size of the Kronecker factors that replace inputs no longer stored", "byte")]
    weights_file: fields.WeightsFile
    weights_sha256: fields.WeightsSha256
    walk_seconds: Annotated[float, Field("wall-clock time of tracing the path", "s")]
    attempt: fields.Attempt
    host: fields.Host
    node_id: fields.NodeId
    worker_id: fields.WorkerId
    device: fields.Device


@row
class RoundRow:
    """One row per round of a cooperating path, except the last round, whose row is in `paths`."""

    study: fields.Study
    round_id: Annotated[str, Field("hash of the round's canonical spec and its dependencies")]
    name: fields.PathName
    round: Annotated[int, Field("number of the round, from 1")]
    num_rounds: Annotated[int, Field("number of rounds of the path")]
    step: fields.Step
    outcome: fields.Outcome
    outcome_kind: fields.OutcomeKind
    weights_file: fields.WeightsFile
    weights_sha256: fields.WeightsSha256
    seconds: fields.Seconds
    attempt: fields.Attempt
    host: fields.Host
    node_id: fields.NodeId
    worker_id: fields.WorkerId
    device: fields.Device


@row
class TrialRow:
    """One row per finished trial of a search, committed with its path; trials with equal values share one row."""

    study: fields.Study
    path_id: fields.PathId
    name: fields.PathName
    trial_id: Annotated[str, Field("ID of the trial in Ray Tune's records")]
    config_json: Annotated[str, Field("values of the searched fields by their dotted names, as JSON")]
    num_steps: fields.NumSteps
    outcome_kind: fields.OutcomeKind
    attempt: fields.Attempt


PATHS = Table.of("paths", PathRow, key=("path_id",))
ROUNDS = Table.of("rounds", RoundRow, key=("round_id",))
TRIALS = Table.of("trials", TrialRow, key=("path_id",))
