"""The sparse networks that paths passed through: what they take and withstand, and their weights by parameter."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fipray.analysis.results import Results
from fipray.analysis.table import WORST, attacked
from fipray.border import checked
from fipray.errors import UsageError
from fipray.records import Store
from fipray.records.bfloat16 import BFLOAT16, raised, rounded


@checked
def judged_variants(results: Results) -> pd.DataFrame:
    """The rows of `variants`, with `robust_accuracy` under the worst of all attacks, `norm`, `epsilon` and
    `num_examples`: a row more for each further threat model, NaN where nothing was attacked. By path and sparsity.
    """
    worst = attacked(results).query("attack == @WORST", local_dict={"WORST": WORST})
    columns = ["name", "norm", "epsilon", "num_examples", "robust_accuracy"]
    return results.variants.merge(worst[columns].rename(columns={"name": "network"}), on="network", how="left")


@checked
def find_variant(results: Results, path: str, sparsity: float | None) -> "pd.Series[Any]":
    """The row of `variants` of the path with this name or path_id at an asked sparsity; without one, at its end.

    Raises UsageError, with what there is, where there is none.
    """
    rows = results.variants
    own = rows[(rows["name"] == path) | (rows["path_id"] == path)]
    if own["path_id"].nunique() > 1:
        raise UsageError(f"{own['path_id'].nunique()} paths are named {path!r}: {', '.join(own['path_id'].unique())}")
    if own.empty:
        there = ", ".join(dict.fromkeys(rows["name"])) or "none yet"
        raise UsageError(f"{path!r} is no path with sparse variants in {results.address}; there are: {there}")
    chosen = own.tail(1) if sparsity is None else own[np.isclose(own["target_sparsity"], sparsity)]
    if chosen.empty:
        there = ", ".join(f"{value:g}" for value in own["target_sparsity"])
        raise UsageError(f"path {path!r} has no variant at a sparsity of {sparsity:g}; it has those at {there}")
    return chosen.iloc[0]


@checked
def state_dict(results: Results, weights: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
    """Arrays by name, as the base module's `state_dict()` has them, with flat weights [P] in place of its parameters:
    `module.load_state_dict(..., strict=True)` takes them as tensors. What does not move, such as buffers, is the
    base's. Values in bfloat16, which numpy does not have, are given in float32.
    """
    state = Store.open(results.location).read_base()
    start = 0
    for names, shape in results.manifest["parameters_of_module"]:
        stop = start + int(np.prod(shape, dtype=np.int64))
        own, values = state[names[0]].dtype, weights[start:stop].reshape(shape)
        state |= dict.fromkeys(names, rounded(values) if own == BFLOAT16 else values.astype(own))
        start = stop
    if start != len(weights):
        raise UsageError(f"the study's module has {start} weights; {len(weights)} were given")
    return {name: raised(array) if array.dtype == BFLOAT16 else array for name, array in state.items()}
