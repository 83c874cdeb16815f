"""How far assertions on what training or random draws reach are from failing, over seeds and settings of the CPU.

A test that asserts such a number calls `assert_above` or `assert_below` instead of a bare `assert`. In an ordinary run
they assert and nothing else. This script runs the tests again and again, in processes of their own: under other seeds,
as every seed that torch or numpy is given is shifted by one number, and under other settings of the CPU libraries:

    python tests/margins.py                                  seeds 0-9 as they are, seeds 0-2 under each other setting
    python tests/margins.py --seeds 0-9 --settings all       the whole product: seeds 0-9 under each setting
    python tests/margins.py --only forgets tests/experiments tests whose name holds "forgets", of one folder

It prints a row for each assertion, the smallest margin first:

    margin      the gap between the mean value and its bound, in spreads
    bound       what the value has to stay above (>) or below (<)
    mean        of the values over all runs; where a test asserts more than once in the same line, its worst counts
    over seeds  the standard deviation over the seeds under the first setting
    settings    the standard deviation over the settings under one seed, the root of its mean square over the seeds
    worst       the value nearest to its bound, or furthest beyond, and the run that it was found in

The spread is the root of the sum of both squares. The status is 1 where a margin is below 4 spreads, a bound was broken
or a run failed by another assertion; each such test and run is named. `--into FILE` keeps what was recorded, a line of
JSON for each assertion, and `--from FILE` prints the table of such files without running anything.

`pytest --seed-shift 3 --threads 2 tests/paths/test_trace.py` is one such run by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENOUGH = 4.0
RECORD = "FIPRAY_MARGINS"  # the file that a run appends to, in its environment
SEED_STRIDE = 1_000_003  # above every seed that tests use, so that no two of a test are shifted onto each other
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "threads-2": dict.fromkeys(THREADS, "2"),
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "onednn-sse41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "onednn-bf16": {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
    "openblas-prescott": {"OPENBLAS_CORETYPE": "PRESCOTT"},
    "oldest": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "PRESCOTT",
    },
}
"""Variables of the environment by the name of a setting: other processors, and what users set."""


# In tests


def assert_above(value: float, bound: float) -> None:
    """Assert `value > bound` of a number that training or random draws reach."""
    _judge(value, bound, "above")


def assert_below(value: float, bound: float) -> None:
    """Assert `value < bound` of a number that training or random draws reach."""
    _judge(value, bound, "below")


def _judge(value: float, bound: float, side: str) -> None:
    """Assert, or record in place of asserting, so that what follows in the test is recorded too."""
    value = float(value.item() if hasattr(value, "item") else value)  # of a tensor too, without its graph
    file = os.environ.get(RECORD)
    if file is None:
        assert value > bound if side == "above" else value < bound, f"{value} is not {side} {bound}"
        return
    caller = traceback.extract_stack(limit=3)[0]
    test = os.environ["PYTEST_CURRENT_TEST"].rsplit(" ", 1)[0]
    place = f"{Path(caller.filename).relative_to(ROOT)}:{caller.lineno}"
    found = {"test": test, "place": place, "source": caller.line, "side": side, "bound": bound, "value": value}
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(found) + "\n")


def shift_seeds(shift: int) -> None:
    """Shift every seed that torch or numpy is given from now on in this process; 0 leaves all as it is."""
    if not shift:
        return
    import numpy as np
    import torch

    class Generator(torch.Generator):
        def manual_seed(self, seed: int) -> torch.Generator:
            return super().manual_seed(seed + shift * SEED_STRIDE)

    seed_torch, make_numpy = torch.manual_seed, np.random.default_rng
    torch.Generator = Generator  # type: ignore[misc]
    torch.manual_seed = lambda seed: seed_torch(seed + shift * SEED_STRIDE)
    np.random.default_rng = lambda seed=None: make_numpy(seed + shift * SEED_STRIDE if isinstance(seed, int) else seed)
    torch.manual_seed(0)


# Runs


@dataclass(frozen=True)
class Run:
    """One run of the tests."""

    setting: str
    seed: int

    def __str__(self) -> str:
        return f"{self.setting}, seed {self.seed}"

    def record(self, arguments: list[str], jobs: int) -> tuple[list[dict[str, object]], list[str]]:
        """What its assertions found, and the tests that failed or could not be run."""
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "recorded"
            file.touch()
            set_here = {name for variables in SETTINGS.values() for name in variables}
            environment = {name: value for name, value in os.environ.items() if name not in set_here}
            environment |= SETTINGS[self.setting] | {RECORD: str(file)}
            threads = SETTINGS[self.setting].get(THREADS[0], "1")
            command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "--color=no", "--show-capture=no"]
            command += ["--seed-shift", str(self.seed), "--threads", threads, "-n", str(jobs)]
            said = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
            failed = re.findall(r"^(?:FAILED|ERROR) (.*?)(?: - .*)?$", said.stdout, flags=re.MULTILINE)
            if said.returncode not in (0, 1):
                failed.append(f"pytest ended with status {said.returncode}: {(said.stdout + said.stderr)[-500:]}")
            recorded = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [{**one, "setting": self.setting, "seed": self.seed} for one in recorded], failed


# The table


@dataclass(frozen=True)
class Row:
    """An assertion of a test, and what it found in each run: its value and the gap to its bound, negative beyond."""

    test: str
    place: str
    source: str
    side: str
    found: dict[Run, tuple[float, float]]

    @property
    def over_seeds(self) -> float:
        first = next(iter(self.found)).setting
        return _deviation([gap for run, (_, gap) in self.found.items() if run.setting == first])

    @property
    def over_settings(self) -> float:
        by_seed = defaultdict(list)
        for run, (_, gap) in self.found.items():
            by_seed[run.seed].append(gap)
        squares = [_deviation(gaps) ** 2 for gaps in by_seed.values() if len(gaps) > 1]
        return math.sqrt(statistics.fmean(squares)) if squares else 0.0

    @property
    def margin(self) -> float:
        """In spreads; -inf where there is a value that is no number, as of a run that diverged."""
        spread = math.hypot(self.over_seeds, self.over_settings)
        gap = statistics.fmean(gap for _, gap in self.found.values())
        if math.isnan(gap):
            return -math.inf
        return gap / spread if spread else math.copysign(math.inf, gap)

    @property
    def worst(self) -> Run:
        return min(self.found, key=lambda run: (not math.isnan(self.found[run][1]), self.found[run][1]))

    @property
    def holds(self) -> bool:
        return self.margin >= ENOUGH and self.found[self.worst][1] > 0

    def cells(self) -> list[str]:
        values = [value for value, _ in self.found.values()]
        value, gap = self.found[self.worst]
        bound = value + (-gap if self.side == "above" else gap)
        return [
            "    " if self.holds else "FAIL",
            f"{self.margin:.1f}",
            f"{'>' if self.side == 'above' else '<'} {bound:.4g}",
            f"{statistics.fmean(values):.4g}",
            f"{self.over_seeds:.2g}",
            f"{self.over_settings:.2g}",
            f"{value:.4g} ({self.worst})",
            f"{self.place} {self.source} [{self.test.partition('::')[2]}]",
        ]


HEADINGS = ["", "margin", "bound", "mean", "over seeds", "settings", "worst", "assertion"]


def rows_of(recorded: Iterable[dict[str, object]]) -> list[Row]:
    """A row for each test and line, the smallest margin first."""
    rows: dict[tuple[str, ...], Row] = {}
    for one in recorded:
        test, place, side, source = (str(one[name]) for name in ("test", "place", "side", "source"))
        row = rows.setdefault((test, place, side), Row(test, place, source, side, {}))
        value, bound = float(str(one["value"])), float(str(one["bound"]))
        run = Run(str(one["setting"]), int(str(one["seed"])))
        gap = value - bound if side == "above" else bound - value
        if run not in row.found or not gap >= row.found[run][1]:
            row.found[run] = (value, gap)
    return sorted(rows.values(), key=lambda row: (row.margin, row.test))


def show(rows: list[Row], failed: list[str]) -> int:
    """Print the table, and what failed; the status."""
    lines: list[list[str]] = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    wrong = sum(not row.holds for row in rows)
    runs = {run for row in rows for run in row.found}
    print(f"\n{len(rows)} assertions in {len(runs)} runs; {wrong} with a margin below {ENOUGH:g} spreads")
    for each in failed:
        print(f"failed: {each}")
    return int(bool(wrong or failed or not rows))


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


# The command line


def numbers(text: str) -> list[int]:
    """The numbers of a text such as `0-4,7`."""
    ranges = [part.partition("-") for part in text.split(",")]
    return [number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)]


def settings(text: str) -> list[str]:
    names = list(SETTINGS) if text == "all" else text.split(",")
    if unknown := set(names) - set(SETTINGS):
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(SETTINGS)}")
    return names


def tests_that_assert() -> list[str]:
    """The files of tests in which this module's assertions are used, or a contract that uses them is inherited."""
    texts = {file: file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py")}
    using = "import assert_above|import assert_below|tests.robustness.contract import"
    found = [file for file, text in texts.items() if re.search(using, text) and file.name.startswith("test_")]
    return sorted(str(file.relative_to(ROOT)) for file in found)


def runs_of(asked: argparse.Namespace) -> Iterator[Run]:
    for setting in asked.settings or SETTINGS:
        few = not asked.settings and setting != "default"
        for seed in asked.seeds[:3] if few else asked.seeds:
            yield Run(setting, seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers, default=numbers("0-9"), help="shifts of all seeds, such as 0-9 or 1,4")
    parser.add_argument("--settings", type=settings, help=f"all, or names of: {', '.join(SETTINGS)}")
    parser.add_argument("--only", metavar="EXPRESSION", help="tests whose name fits, as pytest's -k")
    parser.add_argument("--jobs", type=int, default=0, help="processes of one run of pytest")
    parser.add_argument("--into", type=Path, help="a file to which everything recorded is appended")
    parser.add_argument(
        "--from", dest="files", type=Path, action="append", help="print what such files hold; run nothing"
    )
    parser.add_argument("tests", nargs="*", help="files, folders or tests; all that use the assertions by default")
    asked = parser.parse_args()
    recorded, failed = [], []
    for file in asked.files or ():
        recorded += [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if not asked.files:
        arguments = [*(asked.tests or tests_that_assert()), *(["-k", asked.only] if asked.only else [])]
        for run in runs_of(asked):
            found, wrong = run.record(arguments, asked.jobs)
            print(f"{run}: {len(found)} values, {len(wrong)} tests failed", file=sys.stderr, flush=True)
            recorded += found
            failed += [f"{name} ({run})" for name in wrong]
            if asked.into:
                with asked.into.open("a", encoding="utf-8") as lines:
                    lines.writelines(json.dumps(one) + "\n" for one in found)
    return show(rows_of(recorded), failed)


if __name__ == "__main__":
    sys.exit(main())
