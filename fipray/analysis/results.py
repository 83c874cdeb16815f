"""A results directory as pandas frames. Loads neither torch nor Ray."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from fipray.analysis.trials import front_of_trials, with_config
from fipray.border import checked
from fipray.errors import UsageError
from fipray.printable import printable
from fipray.records import Store
from fipray.records.tables import INT64, table_named

BASE = "base"  # the name of the network that every path starts from
_NUMBER = re.compile(r"\d+(\.\d+)?")
_SORTED_BY = {
    "paths": ["name", "path_id"],
    "points": ["name", "path_id", "step"],
    "robustness": ["name", "attack", "norm", "epsilon", "robustness_id"],
    "per_example": ["name", "attack", "first_example", "norm", "epsilon", "per_example_id"],
    "transfer": ["source", "target", "attack", "norm", "epsilon", "transfer_id"],
    "measures": ["name", "measures_id"],
    "rounds": ["name", "round", "round_id"],
    "trials": ["name", "path_id"],
    "variants": ["name", "path_id", "target_sparsity"],
    "tasks": ["name", "path_id", "task_number"],
    "point_measures": ["name", "path_id", "step", "measure"],
    "point_distances": ["name", "path_id", "step", "kept"],
}


@final
@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """What a study has brought so far. `fipray.records.TABLES` says what every column means.

    Frames have all columns even when empty. Texts are `str`, integers `int64`, numbers that may be missing
    `float64` with NaN, lists numpy arrays. Rows are sorted by name, then by step; path-2 comes before path-10.
    `trials` has a column more for each field that was searched, such as `config.radius.tolerance`.
    """

    paths: pd.DataFrame
    points: pd.DataFrame
    robustness: pd.DataFrame
    per_example: pd.DataFrame
    transfer: pd.DataFrame
    measures: pd.DataFrame
    rounds: pd.DataFrame
    trials: pd.DataFrame
    variants: pd.DataFrame
    tasks: pd.DataFrame
    point_measures: pd.DataFrame
    point_distances: pd.DataFrame
    manifest: Mapping[str, Any]
    address: str
    location: str  # what it is opened by: not shown, as it may hold credentials

    @property
    def directory(self) -> Path:
        """The directory on a file system. Raises UsageError where the results are in an object store."""
        return Store.open(self.location).directory

    @checked
    def weights(self, name: str) -> NDArray[np.floating]:
        """The flat weights [P] of the network `base`, at the end of the path with this name or path_id, or of a variant
        by its name, such as "sparse@0.9".

        Raises UsageError for any other name, listing those there are, and for weights that were not kept.
        """
        if name == BASE:
            from_base = self.paths[self.paths["start"] == BASE]
            rows = self.points[(self.points["step"] == 0) & self.points["path_id"].isin(from_base["path_id"])]
            rows = rows[rows["weights_file"].notna()].head(1)
        elif "@" in name:
            rows = self.variants[self.variants["network"] == name].head(1)
            if rows.empty:
                there = ", ".join(self.variants["network"]) or "none"
                raise UsageError(f"there is no variant named {name!r}; there are: {there}")
        else:
            rows = self.paths[(self.paths["name"] == name) | (self.paths["path_id"] == name)]
            if len(rows) > 1:
                raise UsageError(f"{len(rows)} paths are named {name!r}; use a path_id: {', '.join(rows['path_id'])}")
            if rows.empty:
                names = ", ".join([BASE, *self.paths["name"]])
                raise UsageError(f"there are no weights named {name!r}; there are those of {names}")
        if rows["weights_file"].isna().all():
            raise UsageError(f"no weights of {name!r} were kept in {self.address}")
        arrays = Store.open(self.location).read_weights(*rows[["weights_file", "weights_sha256"]].iloc[0])
        return arrays["weights"]

    @checked
    def pareto(self, objectives: Mapping[str, str] | None = None) -> pd.DataFrame:
        """Of a search: the trials that ended and that no other beats, with what their ends are like; the best in the
        first objective first.

        objectives: columns such as "functional_distance_held_out" or "robust_accuracy", each with "min" or "max"; by
        default those of the search. Raises UsageError for others, and where this is no search.
        """
        return front_of_trials(self, objectives)

    def __repr__(self) -> str:
        kinds = self.paths["outcome_kind"].value_counts(sort=False)
        outcomes = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        networks, attacks = self.robustness["name"].nunique(), ", ".join(self.robustness["attack"].unique())
        parts = [
            f"{len(self.paths)} paths ({outcomes})" if len(self.paths) else "no paths yet",
            f"{len(self.points)} points",
            f"robustness of {networks} networks ({attacks})" if len(self.robustness) else "no robustness yet",
            f"{len(self.transfer)} transfer accuracies" if len(self.transfer) else "no transfer yet",
            f"measures of {self.measures['name'].nunique()} networks" if len(self.measures) else "no measures yet",
        ]
        if len(self.variants):
            parts.append(f"{len(self.variants)} sparse variants")
        if len(self.tasks):
            parts.append(f"accuracies on {self.tasks['task'].nunique()} tasks")
        if len(self.point_measures):
            parts.append(f"{self.point_measures['measure'].nunique()} measures of points")
        if len(self.trials):
            parts.append(f"{len(self.trials)} trials")
        return printable(f"Results of study {self.manifest['study']!r} in {self.address}: {'; '.join(parts)}")


@checked
def load(directory: str | Path) -> Results:
    """Everything that is committed in a results directory, also while a study still runs.

    Raises RecordsError for a directory that is none, CorruptFileError where a committed file is not as it was written.
    """
    store = Store.open(directory)
    frames = {name: _frame(name, rows) for name, rows in store.read_tables(_SORTED_BY).items()}
    frames["trials"] = with_config(frames["trials"])
    return Results(**frames, manifest=store.manifest, address=store.address, location=store.location)


def in_order(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """A key to sort by: in texts the numbers count as numbers, so that path-2 comes before path-10."""
    if column.dtype != "str":
        return column
    codes, texts = pd.factorize(column)
    if str(column.name).endswith("_id"):
        keys = texts.tolist()  # hashes, of which any order will do
    else:
        keys = [_NUMBER.sub(lambda number: f"{float(number[0]):030.9f}", text) for text in texts]
    ranks = np.empty(len(keys), np.int64)
    ranks[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return pd.Series(np.where(codes < 0, len(keys), ranks[codes]) if len(keys) else codes, column.index)


def _frame(table: str, rows: pa.Table) -> pd.DataFrame:
    missing = [column.name for column in table_named(table).columns if column.optional and column.type == INT64]
    frame = rows.to_pandas().astype({"schema_version": "int64", **dict.fromkeys(missing, "float64")})
    return frame.sort_values(_SORTED_BY[table], key=in_order, ignore_index=True)
