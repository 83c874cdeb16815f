"""Results of made-up studies whose paths differ in their seed."""

import json
from pathlib import Path

from fipray import analysis
from fipray.records import Store
from tests.records.rows import STUDY, measures_row, path_row, point_rows, robustness_row, variant_row

THREAT = {"norm": "linf", "epsilon": 8 / 255}


def write_seeded_study(directory: Path, seed: int = 0, num_paths: int = 3, num_points: int = 5) -> analysis.Results:
    """Write paths named sparse-0, sparse-1, ... that differ in their seed, and one of another spec named other."""
    parameters = {"seed": seed, "width": 8}
    store = Store.create_or_open(directory, {"study": STUDY, "study_id": f"{seed:016d}", "parameters": parameters})
    specs = {f"sparse-{number}": {"kind": "path", "num_steps": 2} for number in range(num_paths)}
    specs["other"] = {"kind": "path", "num_steps": 3}
    rows = [robustness_row("base", "base", "base", "worst", **THREAT, robust_accuracy=0.5)]
    for number, (name, spec) in enumerate(specs.items()):
        id, own = f"id-{seed}-{name}", {"seed": 10 * seed + number}
        own["spec_json"] = json.dumps({**spec, **own, "name": name})
        points = point_rows(id, name, num_points=num_points)
        for row in points:
            row["clean_accuracy"] = 0.9 - 0.01 * (number + seed) * row["step"]
        variant = variant_row(id, name, network=f"{name}@0.5", clean_accuracy=0.6 + 0.01 * (number + seed))
        store.commit(id, "path", 1, {"paths": [path_row(id, name, **own)], "points": points, "variants": [variant]})
        worst = 0.3 + 0.05 * (number + seed)
        for network, kind in ((name, "path"), (f"{name}@0.5", "variant")):
            rows += [
                robustness_row(id, network, kind, "fgsm", **THREAT, robust_accuracy=worst + 0.1),
                robustness_row(id, network, kind, "worst", **THREAT, robust_accuracy=worst),
                robustness_row(id, network, kind, "none", norm="linf", epsilon=0.0, num_examples=1000),
            ]
    for row in rows:
        row["robustness_id"] = "judged"
    store.commit("judged", "robustness", 1, {"robustness": rows})
    measures = [measures_row("measured", name, "path", nll=0.1 * (n + seed + 1)) for n, name in enumerate(specs)]
    store.commit("measured", "measures", 1, {"measures": measures})
    return analysis.load(directory)
