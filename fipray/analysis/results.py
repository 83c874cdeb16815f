"""A results directory as pandas frames. Loads neither torch nor Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd

from fipray.errors import UsageError
from fipray.records import Store

_SORTED_BY = {
    "paths": ["name", "path_id"],
    "points": ["name", "path_id", "step"],
    "robustness": ["name", "attack", "norm", "epsilon", "robustness_id"],
    "transfer": ["maker", "target", "attack", "norm", "epsilon", "transfer_id"],
}


@final
@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """What a study has brought so far. `fipray.records.TABLES` says what every column means.

    Frames have all columns even when empty. Texts are `str`, integers `int64`, and numbers that may be missing `float64`
    with NaN. Rows are sorted by name, then by step.
    """

    paths: pd.DataFrame
    points: pd.DataFrame
    robustness: pd.DataFrame
    transfer: pd.DataFrame
    manifest: Mapping[str, Any]
    directory: Path

    def weights(self, name: str) -> np.ndarray:
        """The flat weights [P] at the end of the path with this name or path_id, or of the network `base`.

        Raises UsageError, listing the names there are, for any other, and where the path's weights were not kept.
        """
        store = Store.open(self.directory)
        if name == "base":
            return store.read_base()["weights"]
        rows = self.paths[(self.paths["name"] == name) | (self.paths["path_id"] == name)]
        if len(rows) != 1:
            there = "is in no path" if rows.empty else f"names {len(rows)} paths; use a path_id"
            raise UsageError(f"{name!r} {there}; there are base, {', '.join(self.paths['name'])}")
        path = rows.iloc[0]
        if pd.isna(path["weights_file"]):
            raise UsageError(f"the weights of path {name!r} were not kept")
        return store.read_weights(path["weights_file"], path["weights_sha256"])["weights"]

    def __repr__(self) -> str:
        kinds = self.paths["outcome_kind"].value_counts(sort=False)
        outcomes = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        networks, attacks = self.robustness["name"].nunique(), ", ".join(self.robustness["attack"].unique())
        parts = [
            f"{len(self.paths)} paths ({outcomes})" if len(self.paths) else "no paths yet",
            f"{len(self.points)} points",
            f"robustness of {networks} networks ({attacks})" if len(self.robustness) else "no robustness yet",
            f"{len(self.transfer)} transfer accuracies" if len(self.transfer) else "no transfer yet",
        ]
        return f"Results of study {self.manifest['study']!r} in {self.directory}: {'; '.join(parts)}"


def load(directory: str | Path) -> Results:
    """Everything that is committed in a results directory, also while a study still runs.

    Raises RecordsError for a directory that is none, CorruptFileError where a committed file is not as it was written.
    """
    store = Store.open(directory)
    frames = {name: _frame(store, name) for name in _SORTED_BY}
    return Results(**frames, manifest=store.manifest, directory=store.directory)


def _frame(store: Store, table: str) -> pd.DataFrame:
    frame = store.read_table(table).to_pandas().astype({"schema_version": "int64"})
    return frame.sort_values(_SORTED_BY[table], ignore_index=True)
