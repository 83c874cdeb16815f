"""The tables of a results directory: every column, its type, unit and meaning. One file, one truth.

Every Parquet file of a table carries the table's full schema and `schema_version`, as a column and as metadata, so that
any one file says how to read it. A change to a column is a change of `SCHEMA_VERSION`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from sys import float_info
from typing import TypeAlias, final

import pyarrow as pa

from fipray.errors import UsageError

SCHEMA_VERSION = 8

TEXT, INT32, INT64, FLOAT, BOOLEAN = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
BOOLEANS = pa.list_(pa.field("element", pa.bool_(), nullable=False))  # named as Parquet names it
Rows: TypeAlias = Sequence[Mapping[str, object]]

_MOST = float_info.max
# The least and the greatest that numbers of a unit can be. What is measured is finite.
_RANGES = {
    "1": (0, _MOST),
    "byte": (0, _MOST),
    "s": (0, _MOST),
    "nat": (0, inf),
    "radian (Fisher-Rao)": (0, _MOST),
    "of the inputs": (0, _MOST),
    "of the weights": (0, _MOST),
    "fraction 0..1": (0, 1),
    "0..1": (0, 1),
    "0..2": (0, 2),
    "-1..1": (-1, 1),
    "cosine -1..1": (-1, 1),
}
_ROUNDING = 1e-6  # of what is computed in float32


@final
@dataclass(frozen=True)
class Column:
    """One column. `unit` is empty for text and `1` for plain numbers, and says in which range its numbers lie; only an
    `optional` column may hold nulls, and only one that may be `undefined` NaN.
    """

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    optional: bool = False
    undefined: bool = False

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest number that it may hold, if it holds numbers."""
        least, most = _RANGES.get(self.unit, (-_MOST, _MOST))
        return (least - _ROUNDING, most + _ROUNDING) if self.type == FLOAT else (least, most)

    @property
    def wanted(self) -> str:
        """The range in words."""
        least, most = _RANGES.get(self.unit, (-_MOST, _MOST))
        if most < _MOST:
            return f"a number in {least}..{most}"
        return "a finite number" if least < 0 else "a number of 0 or more" + (", and finite" if most == _MOST else "")


@final
@dataclass(frozen=True)
class Table:
    """One table. `key` names the columns that tell its rows apart; the first of them holds the id of the commit."""

    name: str
    description: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema: names, types, which columns may hold nulls, and as metadata `table`, `schema_version`."""
        fields = [pa.field(column.name, column.type, nullable=column.optional) for column in self.columns]
        return pa.schema(fields, metadata={"table": self.name, "schema_version": str(SCHEMA_VERSION)})


VERSION_COLUMN = Column("schema_version", INT32, "1", "version of this schema; filled in by `to_arrow`")
_STUDY = Column("study", TEXT, "", "name of the study")
_PATH_ID = Column("path_id", TEXT, "", "hash of the path's canonical spec")
_PATH_NAME = Column("name", TEXT, "", "name of the path within the study")
_SPARSITY = Column("sparsity", FLOAT, "fraction 0..1", "fraction of weights that are zero")
_DISTANCE = Column(
    "functional_distance",
    FLOAT,
    "radian (Fisher-Rao)",
    "root mean square distance of outputs to the start's, on anchors",
)
_DISTANCE_HELD_OUT = Column(
    "functional_distance_held_out",
    FLOAT,
    "radian (Fisher-Rao)",
    "to the start's, on held-out inputs; null without any",
    True,
)
_OBJECTIVE_VALUE = Column("objective_value", FLOAT, "of the objective", "the secondary objective; lower is better")
_CLEAN_ACCURACY = Column("clean_accuracy", FLOAT, "fraction 0..1", "accuracy on test inputs; null without labels", True)
_WEIGHTS_FILE = Column("weights_file", TEXT, "", "safetensors file, relative to the directory; null if not kept", True)
_WEIGHTS_SHA256 = Column("weights_sha256", TEXT, "", "SHA-256 of that file in hexadecimal; null if not kept", True)
_ATTEMPT = Column("attempt", INT64, "1", "number of the attempt that wrote this row, from 1")
_HOST = Column("host", TEXT, "", "name of the machine that did the work")
_NETWORK_NAME = Column("name", TEXT, "", "name of the network: base, the path's name, the variant's or the ensemble's")
_KIND = Column("kind", TEXT, "", "base, path, variant or ensemble")
_NUM_MEMBERS = Column("num_members", INT64, "1", "number of networks that were judged together")
_OUTCOME = Column("outcome", TEXT, "", "why the path ended, as a sentence")
_OUTCOME_KIND = Column(
    "outcome_kind", TEXT, "", "the same as one word: completed, stopped, stuck, not finite, given up or paused"
)
_NODE_ID = Column("node_id", TEXT, "", "the cluster's id of the machine; null where there is no cluster", True)
_WORKER_ID = Column("worker_id", TEXT, "", "the cluster's id of the worker; null where there is no cluster", True)
_DEVICE = Column("device", TEXT, "", "device that the path was walked on, such as cpu or cuda:0")
_ATTACK = Column("attack", TEXT, "", "name of the attack; `worst`: the worst of all attacks for each example")
_NORM = Column("norm", TEXT, "", "norm of the threat model: linf or l2")
_EPSILON = Column("epsilon", FLOAT, "of the inputs", "bound on that norm of the change to an input")
_NUM_EXAMPLES = Column("num_examples", INT64, "1", "number of examples that the accuracies are measured on")
_SECONDS = Column("seconds", FLOAT, "s", "wall-clock time that this row took")
_OF_PAIRS = "mean over pairs of members; null for one network"

PATHS = Table(
    "paths",
    "One row a path: what was asked for, how it ended, and what its last point is like.",
    ("path_id",),
    (
        VERSION_COLUMN,
        _STUDY,
        _PATH_ID,
        _PATH_NAME,
        Column("start", TEXT, "", "where the path begins: base, or the name of a path or of a variant"),
        Column("parent_path_id", TEXT, "", "the path_id of the path that it goes on from; null from the base", True),
        Column("seed", INT64, "1", "seed of the path's random generator"),
        Column("objective", TEXT, "", "kind of the secondary objective"),
        Column("stepper", TEXT, "", "kind of the stepper"),
        Column("spec_json", TEXT, "", "the canonical spec, as JSON"),
        _OUTCOME,
        _OUTCOME_KIND,
        Column("num_steps", INT64, "1", "number of steps walked"),
        _SPARSITY,
        _DISTANCE,
        _DISTANCE_HELD_OUT,
        _OBJECTIVE_VALUE,
        Column("objective_start", FLOAT, "of the objective", "the objective where the path began, on the same inputs"),
        Column("objective_end", FLOAT, "of the objective", "the objective at its end, as `objective_value`"),
        _CLEAN_ACCURACY,
        Column(
            "accuracy_collapsed_step",
            INT64,
            "1",
            "first kept step at which accuracy on test inputs lay more than 10 percentage points, and more than four "
            "standard errors of the difference, below the start's; null where it never did, or without labels",
            True,
        ),
        Column(
            "warnings",
            TEXT,
            "",
            "what speaks against the path: an objective that got no better, a collapsed accuracy; empty if nothing",
        ),
        Column("anchor_bytes", INT64, "byte", "size of the inputs on which the function had to stay"),
        Column("memory_bytes", INT64, "byte", "size of what was remembered of inputs that nobody kept"),
        _WEIGHTS_FILE,
        _WEIGHTS_SHA256,
        Column("walk_seconds", FLOAT, "s", "wall-clock time of the walk"),
        _ATTEMPT,
        _HOST,
        _NODE_ID,
        _WORKER_ID,
        _DEVICE,
    ),
)

POINTS = Table(
    "points",
    "One row an accepted stop on a path; step 0 is its start.",
    ("path_id", "step"),
    (
        VERSION_COLUMN,
        _STUDY,
        _PATH_ID,
        _PATH_NAME,
        Column("step", INT64, "1", "number of steps from the start to this point"),
        _SPARSITY,
        _DISTANCE,
        _DISTANCE_HELD_OUT,
        _OBJECTIVE_VALUE,
        Column("gain", FLOAT, "of the objective", "decrease of the objective since the start"),
        Column("radius", FLOAT, "of the weights", "cap on the step that led here; null where there was none", True),
        Column("weights_distance", FLOAT, "of the weights", "Euclidean distance to the start's weights"),
        _CLEAN_ACCURACY,
        Column("seconds", FLOAT, "s", "wall-clock time since the walk began"),
        _WEIGHTS_FILE,
        _WEIGHTS_SHA256,
        _ATTEMPT,
    ),
)

ROBUSTNESS = Table(
    "robustness",
    "One row a network, attack and threat model: what the network withstands.",
    ("robustness_id", "name", "attack", "norm", "epsilon"),
    (
        VERSION_COLUMN,
        _STUDY,
        Column("robustness_id", TEXT, "", "hash of what was evaluated and how"),
        _NETWORK_NAME,
        _KIND,
        _NUM_MEMBERS,
        _ATTACK,
        _NORM,
        _EPSILON,
        _NUM_EXAMPLES,
        Column("clean_accuracy", FLOAT, "fraction 0..1", "accuracy on the unchanged examples"),
        Column("robust_accuracy", FLOAT, "fraction 0..1", "fraction of examples right under the attack"),
        Column("sparsity", FLOAT, "fraction 0..1", "fraction of weights that are zero; null for an ensemble", True),
        Column("functional_distance_held_out", FLOAT, "radian (Fisher-Rao)", "to the base; null if not measured", True),
        Column(
            "warnings", TEXT, "", "of `worst`: signs of masked gradients, empty if none; null if not looked for", True
        ),
        _SECONDS,
        _ATTEMPT,
        _HOST,
    ),
)

PER_EXAMPLE = Table(
    "per_example",
    "One row a network, attack and run of examples: whether each of them is classified correctly.",
    ("per_example_id", "name", "attack", "norm", "epsilon", "first_example"),
    (
        VERSION_COLUMN,
        _STUDY,
        Column("per_example_id", TEXT, "", "hash of what was attacked and how"),
        _NETWORK_NAME,
        _ATTACK,
        _NORM,
        _EPSILON,
        Column("first_example", INT64, "1", "index of the first of these examples in the test inputs, from 0"),
        Column("num_examples", INT64, "1", "number of examples, one after the other"),
        Column("clean", BOOLEANS, "boolean", "whether each example is right as it is"),
        Column("robust", BOOLEANS, "boolean", "whether each example is right under the attack"),
        _SECONDS,
        _ATTEMPT,
        _HOST,
    ),
)

TRANSFER = Table(
    "transfer",
    "One row a pair of networks: accuracy of the target on inputs that were made on the maker.",
    ("transfer_id", "source", "target", "attack", "norm", "epsilon"),
    (
        VERSION_COLUMN,
        _STUDY,
        Column("transfer_id", TEXT, "", "hash of what was evaluated and how"),
        Column("source", TEXT, "", "name of the network that the inputs were made on"),
        Column("target", TEXT, "", "name of the network that was judged on them"),
        _ATTACK,
        _NORM,
        _EPSILON,
        _NUM_EXAMPLES,
        Column("accuracy", FLOAT, "fraction 0..1", "fraction of the inputs that the target classifies correctly"),
        _SECONDS,
        _ATTEMPT,
        _HOST,
    ),
)

MEASURES = Table(
    "measures",
    "One row a network: its accuracy, calibration and diversity on examples as they are.",
    ("measures_id", "name"),
    (
        VERSION_COLUMN,
        _STUDY,
        Column("measures_id", TEXT, "", "hash of what was measured and how"),
        _NETWORK_NAME,
        _KIND,
        _NUM_MEMBERS,
        Column("num_examples", INT64, "1", "number of examples that were measured"),
        Column("clean_accuracy", FLOAT, "fraction 0..1", "accuracy on the examples"),
        Column("nll", FLOAT, "nat", "negative log-likelihood of the labels, mean over examples"),
        Column("expected_calibration_error", FLOAT, "fraction 0..1", "gap of confidence and accuracy, 15 equal bins"),
        Column("brier", FLOAT, "0..2", "squared distance of probabilities to the label's, mean over examples"),
        Column("selective_accuracy_80", FLOAT, "fraction 0..1", "accuracy on the 80 % that it is surest of"),
        Column("selective_accuracy_90", FLOAT, "fraction 0..1", "accuracy on the 90 % that it is surest of"),
        Column("aurc", FLOAT, "fraction 0..1", "area under the risk-coverage curve; lower is better"),
        Column("ood_auroc", FLOAT, "0..1", "area under the ROC of confidence inside against outside; or null", True),
        Column("coherence", FLOAT, "cosine -1..1", f"of input gradients, {_OF_PAIRS}", True),
        Column("disagreement", FLOAT, "fraction 0..1", f"share predicted differently, {_OF_PAIRS}", True),
        Column("q_statistic", FLOAT, "-1..1", f"Yule's Q of errors, {_OF_PAIRS}, NaN if undefined", True, True),
        Column("kappa", FLOAT, "-1..1", f"Cohen's kappa of correctness, {_OF_PAIRS}, NaN if undefined", True, True),
        _SECONDS,
        _ATTEMPT,
        _HOST,
    ),
)

ROUNDS = Table(
    "rounds",
    "One row a round of a cooperating path but its last, which is the path's row in `paths`: where it waited for the "
    "other members, and the weights that they saw next.",
    ("round_id",),
    (
        VERSION_COLUMN,
        _STUDY,
        Column("round_id", TEXT, "", "hash of the round's canonical spec and of what it needs"),
        _PATH_NAME,
        Column("round", INT64, "1", "number of the round, from 1"),
        Column("num_rounds", INT64, "1", "number of rounds of the path"),
        Column("step", INT64, "1", "number of steps from the start to this point"),
        _OUTCOME,
        _OUTCOME_KIND,
        _WEIGHTS_FILE,
        _WEIGHTS_SHA256,
        _SECONDS,
        _ATTEMPT,
        _HOST,
        _NODE_ID,
        _WORKER_ID,
        _DEVICE,
    ),
)

TRIALS = Table(
    "trials",
    "One row a trial of a search that ended, committed with its path. Trials of equal values are one path and one row.",
    ("path_id",),
    (
        VERSION_COLUMN,
        _STUDY,
        _PATH_ID,
        _PATH_NAME,
        Column("trial_id", TEXT, "", "name of the trial in the search's own records"),
        Column("config_json", TEXT, "", "the values of the searched fields by their dotted names, as JSON"),
        Column("num_steps", INT64, "1", "number of steps walked"),
        _OUTCOME_KIND,
        _ATTEMPT,
    ),
)

VARIANTS = Table(
    "variants",
    "One row a sparsity that a path was asked for and reached, on its way or at its end: what the network takes then.",
    ("path_id", "target_sparsity"),
    (
        VERSION_COLUMN,
        _STUDY,
        _PATH_ID,
        _PATH_NAME,
        Column("network", TEXT, "", "name of the variant in `robustness` and `measures`; of the end, the path's"),
        Column("target_sparsity", FLOAT, "fraction 0..1", "what was asked for; of what, the path's pattern says"),
        Column("step", INT64, "1", "number of steps from the start to this point"),
        _SPARSITY,
        Column("sparsity_by_layer_json", TEXT, "", "fraction of zeros of each parameter of 2 dimensions or more"),
        Column("num_weights", INT64, "1", "number of weights"),
        Column("non_zeros", INT64, "1", "number of weights that are not zero"),
        Column("bytes_dense", INT64, "byte", "size of all weights as float32"),
        Column("bytes_csr", INT64, "byte", "size with the layers' matrices as compressed sparse rows"),
        Column("bytes_2_4", INT64, "byte", "size in the 2:4 format; null where zeros are not in that pattern", True),
        Column("multiply_adds", INT64, "1", "of linear layers and convolutions, for one input"),
        Column("multiply_adds_non_zero", INT64, "1", "those of weights that are not zero"),
        _DISTANCE_HELD_OUT,
        _CLEAN_ACCURACY,
        _WEIGHTS_FILE,
        _WEIGHTS_SHA256,
        _ATTEMPT,
    ),
)

TASKS = Table(
    "tasks",
    "One row a path and task: how well its end does what the task asks, whether or not the path learned it.",
    ("path_id", "task"),
    (
        VERSION_COLUMN,
        _STUDY,
        _PATH_ID,
        _PATH_NAME,
        Column("task", TEXT, "", "name of the task in the data"),
        Column("task_number", INT64, "1", "its place among the tasks of the data, from 1"),
        Column("learned", BOOLEAN, "boolean", "whether the path's objective was to learn it"),
        Column("num_examples", INT64, "1", "number of the task's test examples"),
        Column("accuracy_at_start", FLOAT, "fraction 0..1", "accuracy on them where the path began"),
        Column("accuracy", FLOAT, "fraction 0..1", "accuracy on them at its end"),
        _ATTEMPT,
    ),
)

POINT_MEASURES = Table(
    "point_measures",
    "One row a point and measure of the study's own: what was measured there.",
    ("path_id", "step", "measure"),
    (
        VERSION_COLUMN,
        _STUDY,
        _PATH_ID,
        _PATH_NAME,
        Column("step", INT64, "1", "step of the point"),
        Column("measure", TEXT, "", "name of the measure in the study"),
        Column("value", FLOAT, "of the measure", "what was measured"),
        _ATTEMPT,
    ),
)

POINT_DISTANCES = Table(
    "point_distances",
    "One row a point and kept quantity, of studies that keep others than the outputs: how far it is from its target.",
    ("path_id", "step", "kept"),
    (
        VERSION_COLUMN,
        _STUDY,
        _PATH_ID,
        _PATH_NAME,
        Column("step", INT64, "1", "step of the point"),
        Column("kept", TEXT, "", "name of the kept quantity in the study"),
        Column("distance", FLOAT, "of its scale", "root mean square distance to its target, on the inputs of steps"),
        Column("distance_held_out", FLOAT, "of its scale", "the same on the inputs on which it is judged"),
        _ATTEMPT,
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        PATHS,
        POINTS,
        ROBUSTNESS,
        PER_EXAMPLE,
        TRANSFER,
        MEASURES,
        ROUNDS,
        TRIALS,
        VARIANTS,
        TASKS,
        POINT_MEASURES,
        POINT_DISTANCES,
    )
}


def table_named(name: str) -> Table:
    """The table of that name. Raises UsageError, listing the names there are, for any other."""
    if name not in TABLES:
        raise UsageError(f"there is no table {name!r}; the tables are {', '.join(TABLES)}")
    return TABLES[name]
