"""Draws calls, makes them, and sorts what they end with."""

from __future__ import annotations

import shutil
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, seed as seeded, settings
from hypothesis.strategies import SearchStrategy

import fipray as fip
from benchmarks.faults.fuzz import commands, subjects
from benchmarks.faults.fuzz.targets import targets
from fipray.border import described


@dataclass
class Tally:
    """How calls of one target ended: right, refused on purpose, with a wrong result, or with any other exception."""

    right: int = 0
    refused: int = 0
    wrong: int = 0
    raw: int = 0
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)  # the smallest of each kind, and its trace

    def __add__(self, other: Tally) -> Tally:
        right, refused, wrong, raw = (a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Tally(right, refused, wrong, raw)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        return self.right, self.refused, self.wrong, self.raw

    def note(self, kind: str, text: str, trace: str) -> None:
        if kind not in self.examples or len(text) < len(self.examples[kind][0]):
            self.examples[kind] = (text, trace)

    def __str__(self) -> str:
        names = ("right", "refused", "wrong", "raw")
        return "  ".join(f"{name} {count:5d}" for name, count in zip(names, self.counts, strict=True))


def fuzz(calls: int, seed: int = 0, only: str = "", without: tuple[str, ...] = ()) -> dict[str, Tally]:
    """About so many calls, shared out among the targets by weight; a quarter of them of the command line.

    Of targets whose names hold `only`, and do not begin as one of `without`.
    """
    torch.set_num_threads(1)
    chosen = [target for target in targets() if only in target.name and not target.name.startswith(without)]
    whole = sum(target.weight for target in chosen) or 1
    fraction = 0.75 if not only else 1.0
    tallies = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for target in chosen:
            number = max(2, round(fraction * calls * target.weight / whole))
            tallies[target.name] = _calls(target.arguments(), target.call, number, f"{seed} {target.name}")
        if only in "command line":
            scratch = Path(tempfile.mkdtemp(prefix="fipray-fuzz-"))
            tallies["command line"] = _calls(
                commands.arguments(scratch), partial(_command, scratch), round(calls / 4), f"{seed}"
            )
            shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(subjects.results().parent, ignore_errors=True)
    subjects.results.cache_clear()
    return tallies


def _calls(strategy: SearchStrategy[Any], call: Callable[[Any], None], number: int, seed: str) -> Tally:
    tally = Tally()

    @seeded(zlib.crc32(seed.encode()))
    @settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(arguments: Any) -> None:
        try:
            call(arguments)
        except fip.FiprayError as error:
            tally.refused += 1
            if not (text := str(error)) or len(text) > 2000:
                tally.raw += 1
                tally.note("a message of no or too many words", _shown(arguments), text[:300])
        except AssertionError as error:
            tally.wrong += 1
            tally.note("wrong", _shown(arguments), _last(error))
        except Exception as error:
            tally.raw += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            tally.note(f"{type(error).__name__} in {last.name}", _shown(arguments), _last(error))
        else:
            tally.right += 1

    one()
    return tally


def _command(scratch: Path, line: list[str]) -> None:
    """Run a command line, and raise UsageError for status 2 with a message, RunError for status 1."""
    status, told = commands.call(line, scratch)
    if "Traceback" in told or (status and not told):
        raise RuntimeError(f"status {status}: {told[-800:] or 'not a word'}")
    if status == 2:
        raise fip.errors.UsageError(told[:500])
    if status:
        raise fip.errors.RunError(told[:500])


def _shown(arguments: Any) -> str:
    if not isinstance(arguments, dict):
        return repr(arguments)
    short = {name: text if len(text := repr(value)) < 100 else described(value) for name, value in arguments.items()}
    return ", ".join(f"{name}={text}" for name, text in short.items())


def _last(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"    {frame.filename}:{frame.lineno} {frame.line}" for frame in frames[-4:]]
    return "\n".join([*lines, f"    {type(error).__name__}: {str(error)[:400]}"])
