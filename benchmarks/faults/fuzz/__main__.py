"""Generated calls: `python -m benchmarks.faults.fuzz --calls 3000 --seed 0`. Status 1 if a call is raw or wrong."""

from __future__ import annotations

import argparse
import sys

from benchmarks.faults.fuzz.calling import Tally, fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    asked = parser.parse_args()
    tallies = fuzz(asked.calls, asked.seed, asked.only)
    for name, tally in tallies.items():
        print(f"{name:32s} {tally}")
    whole = sum(tallies.values(), Tally())
    print(f"{'all':32s} {whole}")
    for name, tally in tallies.items():
        for kind, (text, trace) in sorted(tally.examples.items()):
            print(f"\n{name}: {kind}\n  {text}\n{trace}")
    sys.exit(1 if whole.raw or whole.wrong else 0)


if __name__ == "__main__":
    main()
