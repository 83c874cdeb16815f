"""Results directory of a made-up study: ten paths, an ensemble, two attacks, transfer and measures."""

from pathlib import Path
from typing import Any

import numpy as np

from fipray.records import Store
from tests.records.rows import STUDY, measures_row, path_row, point_rows, robustness_row, transfer_row

NUM_PATHS, NUM_POINTS = 10, 40
MANIFEST = {"study": STUDY, "study_id": "0123456789abcdef", "parameters": {"members": NUM_PATHS}}
BASE = {"weights": np.arange(5, dtype=np.float32)}


def write_made_up_study(directory: Path, num_paths: int = NUM_PATHS, *, judged: bool = True) -> None:
    random = np.random.default_rng(0)
    store = Store.create_or_open(directory, MANIFEST)
    networks = {"base": {"kind": "base"}}
    for number in range(num_paths):
        name, target = f"path-{number}", 0.9 + 0.09 * number / num_paths
        networks[name] = {"kind": "path", **_write_path(store, f"id{number}", name, random.uniform(0.7, 1.3), target)}
    networks["all"] = {"kind": "ensemble", "num_members": num_paths, "sparsity": None}
    if judged:
        for number, (name, network) in enumerate(networks.items()):
            _write_robustness(store, f"robust{number}", name, network, 0.4 + 0.45 * number / len(networks))
        rows = [
            transfer_row("transfer", source, target, 0.35 if source == target else float(random.uniform(0.5, 0.9)))
            for source in networks
            for target in networks
        ]
        store.commit("transfer", "transfer", 1, {"transfer": rows})
        kinds = {name: network["kind"] for name, network in networks.items()}
        measured = [measures_row("measures", name, kind) for name, kind in kinds.items()]
        measured[-1] |= {"num_members": num_paths, "coherence": 0.2, "disagreement": 0.03, "q_statistic": 0.9}
        store.commit("measures", "measures", 1, {"measures": [*measured[:-1], measured[-1] | {"kappa": 0.4}]})


def _write_path(store: Store, id: str, name: str, pace: float, target: float) -> dict[str, Any]:
    """Write a path; return measures of its end."""
    attempt = store.next_attempt(id)
    file, sha256 = store.write_weights(id, attempt, "end", {"weights": np.full(5, pace, np.float32)})
    start = dict(zip(("weights_file", "weights_sha256"), store.write_weights(id, attempt, "start", BASE), strict=True))
    rows = point_rows(id, name, attempt, NUM_POINTS)
    fraction = np.arange(NUM_POINTS) / (NUM_POINTS - 1)
    for row, done in zip(rows, fraction.tolist(), strict=True):
        row["step"] *= 25
        row["sparsity"] = target * (1 - (1 - done) ** 3)
        row["functional_distance"] = 0.12 * pace * done**2
        row["functional_distance_held_out"] = 0.15 * pace * done**2
        row["objective_value"] = 120.0 * pace * (1 - done) ** 2 + 0.5
        row["clean_accuracy"] = 0.985 - 0.02 * pace * done**4
    rows[0] |= start
    ends = {
        key: rows[-1][key]
        for key in ("sparsity", "functional_distance", "functional_distance_held_out", "objective_value")
    }
    path = path_row(id, name, attempt, weights_file=file, weights_sha256=sha256, num_steps=rows[-1]["step"], **ends)
    path |= {"clean_accuracy": rows[-1]["clean_accuracy"], "outcome": "completed: all 975 steps were walked"}
    if pace > 1.2:
        path |= {
            "outcome": "stopped: the functional distance rose above 0.3 on held-out inputs",
            "outcome_kind": "stopped",
        }
    store.commit(id, "path", attempt, {"paths": [path], "points": rows})
    return {key: ends[key] for key in ("sparsity", "functional_distance_held_out")}


def _write_robustness(store: Store, id: str, name: str, network: dict[str, Any], robust: float) -> None:
    kind = network["kind"]
    everywhere = {"num_examples": 10_000, "epsilon": 0.0, "clean_accuracy": 0.97, "robust_accuracy": 0.97}
    accuracies = {"fgsm": robust + 0.1, "pgd-20x1": robust, "worst": robust - 0.01}
    rows = [robustness_row(id, name, kind, attack, robust_accuracy=value) for attack, value in accuracies.items()]
    rows.append(robustness_row(id, name, kind, "none", **everywhere))
    store.commit(id, "robustness", 1, {"robustness": [row | network for row in rows]})
