"""Sparse networks on the way of paths: their size and accuracy, and their weights as a `state_dict`."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fipray.analysis.results import Results
from fipray.analysis.summary_table import WORST
from fipray.analysis.table import attacked
from fipray.border import checked
from fipray.errors import UsageError
from fipray.records import Store
from fipray.records.bfloat16 import BFLOAT16, raised
from fipray.records.states import state_of


@checked
def judged_variants(results: Results) -> pd.DataFrame:
    """Join variants with their accuracy under the worst of all attacks.

    Args:
        results: results of a study.

    Returns:
        Rows of `variants` with `robust_accuracy`, `norm`, `epsilon` and `num_examples`, by path and sparsity; one row
        per threat model, and NaN for variants that were not attacked.
    """
    worst = attacked(results).query("attack == @WORST", local_dict={"WORST": WORST})
    columns = ["name", "norm", "epsilon", "num_examples", "robust_accuracy"]
    # A left merge: variants without evaluation stay, and one under several threat models gets several rows.
    return results.variants.merge(worst[columns].rename(columns={"name": "network"}), on="network", how="left")


@checked
def find_variant(results: Results, path: str, sparsity: float | None) -> "pd.Series[Any]":
    """Find a variant of a path.

    Args:
        results: results of a study.
        path: name or path_id of the path.
        sparsity: requested sparsity, 0..1; None for the last variant of the path.

    Returns:
        Its row of `variants`.

    Raises:
        UsageError: if there is none, or several paths have that name; the message lists what exists.
    """
    rows = results.variants
    own = rows[(rows["name"] == path) | (rows["path_id"] == path)]
    if own["path_id"].nunique() > 1:
        raise UsageError(f"{own['path_id'].nunique()} paths are named {path!r}: {', '.join(own['path_id'].unique())}")
    if own.empty:
        known = ", ".join(dict.fromkeys(rows["name"])) or "none yet"
        raise UsageError(f"{path!r} is not a path with sparse variants in {results.address}; those are: {known}")
    # isclose: a requested sparsity of 0.3 may be stored as 0.30000000000000004.
    chosen = own.tail(1) if sparsity is None else own[np.isclose(own["target_sparsity"], sparsity)]
    if chosen.empty:
        known = ", ".join(f"{value:g}" for value in own["target_sparsity"])
        raise UsageError(f"path {path!r} has no variant at a sparsity of {sparsity:g}; it has those at {known}")
    return chosen.iloc[0]


@checked
def state_dict(results: Results, weights: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
    """Convert flat weights to arrays named as in the base module's `state_dict()`.

    `module.load_state_dict(..., strict=True)` takes them as tensors.

    Args:
        results: results of a study; the base weights are read from its directory.
        weights: flat weights [P].

    Returns:
        Arrays by name. Parameters come from `weights`; buffers and fixed parameters are those of the base. Values in
        bfloat16, which numpy lacks, are in float32.

    Raises:
        UsageError: if the number of weights is not that of the study's network.
    """
    state = state_of(Store.open(results.location), weights)
    return {name: raised(array) if array.dtype == BFLOAT16 else array for name, array in state.items()}
