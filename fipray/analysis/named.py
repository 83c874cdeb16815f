"""Results that a recipe names, such as "pruned": which network each of them is."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

BASE = "base"
_RESULTS = "results"  # parameter of the manifest in which a recipe writes its results


def named_networks(manifest: Mapping[str, Any], frames: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Networks that are the results of a recipe.

    Args:
        manifest: manifest of the results directory.
        frames: its tables.

    Returns:
        Names of networks (a path, variant or ensemble, or "base") by name of the result. Results whose path has not
        ended are left out; empty for a study that no recipe made.
    """
    rules = _rules(manifest)
    found = {name: _network(rule, frames) for name, rule in rules.items()}
    return {name: network for name, network in found.items() if network is not None}


def _rules(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    text = manifest["parameters"].get(_RESULTS)
    if "recipe" not in manifest["parameters"] or not isinstance(text, str):
        return {}  # a study of one's own may have a parameter of this name
    rules: dict[str, dict[str, Any]] = json.loads(text)
    return rules


def _network(rule: Mapping[str, Any], frames: Mapping[str, pd.DataFrame]) -> str | None:
    if "network" in rule:
        return str(rule["network"])
    if rule["rule"] == "first_within":
        return _first_within(rule, frames["robustness"])
    if rule["rule"] == "first_measured":
        return _first_measured(rule, frames["paths"], frames["point_measures"])
    paths, variants, measured = frames["paths"], frames["variants"], frames["point_measures"]
    own = paths.loc[paths["name"].isin(rule["paths"]), "path_id"]
    if len(own) < len(rule["paths"]):
        return None  # a sparser one may still come
    values = measured[measured["path_id"].isin(own) & (measured["measure"] == rule["measure"])]
    rows = variants.merge(values[["path_id", "step", "value"]], on=["path_id", "step"])
    is_within = rows["value"] <= rule["most"] if rule["least"] is None else rows["value"] >= rule["least"]
    within = rows[is_within].sort_values("target_sparsity")
    return BASE if within.empty else str(within["network"].iloc[-1])


def _first_within(rule: Mapping[str, Any], robustness: pd.DataFrame) -> str | None:
    lost = robustness[robustness["attack"] == "none"].set_index("name")[rule["column"]]
    for name in rule["networks"]:
        if name not in lost.index:
            return None  # not evaluated yet, and it may be the one
        if lost[name] <= rule["most"]:
            return str(name)
    return BASE


def _first_measured(rule: Mapping[str, Any], paths: pd.DataFrame, measured: pd.DataFrame) -> str | None:
    own = paths.loc[paths["name"].isin(rule["paths"]), "path_id"]
    if len(own) < len(rule["paths"]):
        return None  # another path may still end
    ends = measured[measured["path_id"].isin(own)].sort_values("step").groupby(["measure", "path_id"])["value"].last()
    for name, measure in rule["measures"].items():
        if ends.loc[measure].max(skipna=False) <= rule["most"]:
            return str(name)
    return BASE
