"""How fast one worker writes saved points, and reads and verifies them.

    python -m benchmarks.cluster.weights [--weights 25.6 86.6] [--points 5] [--into DIRECTORY]

Real are the store, safetensors, the digests, fsync and the rename, or the requests to an object store. Weights are
random float32 numbers, in millions. Reading comes right after writing, so on a local disk it is from the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import numpy as np

from fipray.records import Store


def measure(millions: float, num_points: int, into: str) -> tuple[float, float]:
    """Median seconds to write a point, and to read and verify it."""
    weights = np.random.default_rng(0).random(round(1e6 * millions), dtype=np.float32)
    store = Store.create_or_open(into, {"study": "weights", "study_id": "weights", "parameters": {}})
    writing, reading = [], []
    for number in range(num_points):
        began = time.perf_counter()
        named = store.write_weights("path", 1, f"step-{number}-{millions:g}", {"weights": weights})
        written = time.perf_counter()
        assert np.array_equal(store.read_weights(*named)["weights"][:9], weights[:9])
        writing.append(written - began)
        reading.append(time.perf_counter() - written)
    return statistics.median(writing), statistics.median(reading)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, nargs="+", default=[25.6, 86.6], help="millions")
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--into", help="directory or address; a temporary directory by default")
    args = parser.parse_args()
    print("| weights, millions | MB | write, s | MB/s | read and verify, s | MB/s |")
    print("|---:|---:|---:|---:|---:|---:|")
    for millions in args.weights:
        with tempfile.TemporaryDirectory(prefix="fs", dir="/tmp") as directory:
            write, read = measure(millions, args.points, args.into or directory)
        size = 4 * millions
        print(f"| {millions:g} | {size:.0f} | {write:.2f} | {size / write:,.0f} | {read:.2f} | {size / read:,.0f} |")


if __name__ == "__main__":
    main()
