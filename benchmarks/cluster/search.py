"""What giving trials up saves: the search on handwritten digits, 16 trials, one network of 90 % zeros.

    python -m benchmarks.cluster.search [--quick] [--json FILE]

The same values are walked to the end, all of them, and under ASHA; then Optuna proposes others under ASHA. Judged are
the held-out functional distance of the best trial and the steps of all trials together. Two workers on this machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

import fipray as fip
from experiments import digits_search
from fipray import analysis

Record = dict[str, str | float]
CONTENDERS = {
    "random, all to the end": {"searcher": "random", "scheduler": "none"},
    "random, ASHA": {"searcher": "random", "scheduler": "asha"},
    "Optuna, ASHA": {"searcher": "optuna", "scheduler": "asha"},
}
DISTANCE = "functional_distance_held_out"


def measure(quick: bool) -> list[Record]:
    records: list[Record] = []
    runner = fip.RayRunner(num_workers=2)
    with runner.session(), tempfile.TemporaryDirectory() as folder:
        for seed in range(2 if quick else 5):
            made = digits_search.search(num_steps=200 if quick else 400)
            study = replace(made.study, evaluation=None)
            for name, settings in CONTENDERS.items():
                search = replace(made, study=study, objectives={DISTANCE: "min"}, seed=seed, **settings)  # type: ignore[arg-type]
                began = time.perf_counter()
                into = Path(folder) / f"{seed}-{len(records)}"
                fip.search.run(search, into, runner)
                seconds = time.perf_counter() - began
                trials = analysis.judged_trials(analysis.load(into))
                ended = trials[trials["outcome_kind"] != "given up"]
                records.append(
                    {
                        "seed": seed,
                        "search": name,
                        "trials": len(trials),
                        "ended": len(ended),
                        "steps": int(trials["num_steps"].sum()),
                        "best_distance": float(ended[DISTANCE].min()),
                        "seconds": seconds,
                    }
                )
                Console(stderr=True).print(records[-1])
    return records


def show(records: Sequence[Record]) -> Table:
    table = Table("seed", "search", "trials", "ended", "steps", "of all", "best distance", "seconds", box=None)
    all_steps = {row["seed"]: float(row["steps"]) for row in records if row["search"] == next(iter(CONTENDERS))}
    for row in records:
        table.add_row(
            str(row["seed"]),
            str(row["search"]),
            str(row["trials"]),
            str(row["ended"]),
            str(row["steps"]),
            f"{100 * float(row['steps']) / all_steps[row['seed']]:.0f} %",
            f"{row['best_distance']:.4f}",
            f"{row['seconds']:.0f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, half the steps")
    parser.add_argument("--json", type=Path, help="write the records to this file")
    arguments = parser.parse_args()
    records = measure(arguments.quick)
    Console().print(show(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
