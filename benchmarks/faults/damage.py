"""Damaged and hostile results directories under every verb.

    python -m benchmarks.faults.damage [--damages 320] [--seed 0] [--only TEXT]

Makes a small study of handwritten digits, and a compacted copy of it. To copies of both it does single damages: flipped
bits, truncations, swaps of two files of a kind, deletions, duplicates, zeros, appended bytes. After each either all
values are exactly those of the whole directory, or `verify` and whoever needs the file name it, with status 2. A commit
record that is gone is work that is not done: then what is left has its exact values, and a run does it again. Then come
the directories of benchmarks/faults/hostile.py, each in a process of its own under every verb: nothing outside changes,
read or made, and nothing may hang. Prints a line a kind; ends with status 1 where anything was otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import fipray as fip
from benchmarks.faults.hostile import HARMLESS, HOSTILE, SECRET, make_outside
from fipray import analysis, cli
from fipray.errors import FiprayError
from fipray.records import TABLES, Store, compact

VERBS_SECONDS, HANGS = 120, 1000
_OF_AN_ATTEMPT = ("seconds", "walk_seconds", "attempt", "weights_file")  # other for the same work done again
_COUNTING = ("study.json", "base.safetensors", "base.sha256", "commits", *TABLES, "weights")


def study() -> fip.Study:
    """Paths with and without sparse variants, an ensemble, attacks, transfer and measures."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    inputs, labels = (digits.data / 16).astype(np.float32), digits.target
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(
                module(torch.from_numpy(inputs[:1000])), torch.from_numpy(labels[:1000])
            ).backward()
            optimiser.step()
    paths = (
        fip.PathSpec(
            "sparse",
            fip.objectives.Sparsify(0.6, through=(0.3,)),
            stepper=fip.steppers.FirstOrder(),
            num_steps=6,
            batch_size=50,
        ),
        fip.PathSpec("diverse", fip.objectives.GradientDiversity(), num_steps=4, batch_size=50, seed=1),
        fip.PathSpec(
            "other", fip.objectives.GradientDiversity(), num_steps=4, batch_size=50, others=("diverse",), seed=2
        ),
    )
    return fip.Study(
        name="damage",
        module=module.eval(),
        base_id="digits",
        data=fip.Data(inputs[:300], inputs[300:400], inputs[1000:1100], labels[1000:1100]),
        paths=paths,
        ensembles=(fip.EnsembleSpec("both", ("base", "diverse", "other")),),
        evaluation=fip.Evaluation(fip.ThreatModel("linf", 0.05), (fip.attacks.FGSM(),), num_examples=30),
    )


def command(*arguments: object) -> tuple[int, str]:
    """Run a command in this process; return its status and output, or -1 and the traceback of an exception."""
    said, before = io.StringIO(), sys.argv
    sys.argv = ["fipray", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
        return 0, said.getvalue()
    except SystemExit as end:
        return int(end.code or 0), said.getvalue()
    except BaseException:
        return -1, said.getvalue() + traceback.format_exc()
    finally:
        sys.argv = before


def run(directory: Path, *more: object) -> tuple[int, str]:
    return command("run", "benchmarks.faults.damage:study", "--into", directory, "--runner", "local", *more)


def values(directory: Path, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Everything that can be read: all frames, the weights of all networks, their outputs to others."""
    results = analysis.load(directory)
    there: dict[str, Any] = {
        name: getattr(results, name).drop(columns=list(without), errors="ignore") for name in TABLES
    }
    names = [*results.paths["name"], *results.variants["network"]]
    for name in ["base", *names] if names else []:
        there[f"weights of {name}"] = results.weights(name)
        there[f"state of {name}"] = analysis.state_dict(results, results.weights(name))
    return there


def same(one: Any, other: Any) -> bool:
    if isinstance(one, pd.DataFrame):
        return bool(one.equals(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


def parts_of(one: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether each is one of the whole, exactly; of frames each row."""
    for name, value in one.items():
        if isinstance(value, pd.DataFrame):
            key = list(TABLES[name].key)
            if not value.equals(whole[name].merge(value[key], on=key)[list(value)].astype(value.dtypes)):
                return False
        elif not same(value, whole[name]):
            return False
    return True


def flip(file: Path, draws: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    file.write_bytes(content)


def zero(file: Path, draws: random.Random) -> None:
    content = bytearray(file.read_bytes())
    start = draws.randrange(len(content))
    stop = min(len(content), start + draws.randint(1, 64))
    content[start:stop] = bytes(stop - start)
    file.write_bytes(content)


def swap(file: Path, draws: random.Random) -> None:
    others = [other for other in file.parent.parent.rglob(f"*{file.suffix}") if other.is_file() and other != file]
    near = [other for other in others if other.parent == file.parent]
    if not others:
        return
    other = draws.choice(near or others)
    first, second = file.read_bytes(), other.read_bytes()
    file.write_bytes(second), other.write_bytes(first)


def duplicate(file: Path, draws: random.Random) -> None:
    shutil.copy(file, file.with_name(f"copy-{draws.randrange(100)}{file.suffix}"))


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "a flipped bit": flip,
    "a truncation": lambda file, draws: os.truncate(file, draws.randrange(file.stat().st_size)),
    "a swap of two files": swap,
    "a deletion": lambda file, draws: file.unlink(),
    "a duplicate": duplicate,
    "zeros": zero,
    "appended bytes": lambda file, draws: file.write_bytes(file.read_bytes() + draws.choice([b"\n", b" ", b"\0" * 8])),
}


def counting(directory: Path) -> dict[str, str]:
    """Return the digests of all committed files."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.relative_to(directory).parts[0] in _COUNTING
    }


def check_damage(directory: Path, whole: dict[str, Any], damage: Callable[[], object]) -> list[str]:
    """Apply a damage to a copy of the directory and return what did not behave as it should."""
    wrong: list[str] = []
    before = counting(directory)
    damage()
    after = counting(directory)
    lost_commits = {file for file in before.keys() - after.keys() if file.startswith("commits/")}
    is_damaged = any(after.get(file) != digest for file, digest in before.items()) or any(
        file.startswith("commits/") for file in after.keys() - before.keys()
    )
    must_be_named = is_damaged and not lost_commits

    def said(what: str, status: int, text: str) -> None:
        if status not in (0, 2) or "Traceback" in text:
            wrong.append(f"{what} ended with {status}: {text[-2000:]}")

    for verb in ("show", "verify"):
        status, text = command(verb, directory)
        said(verb, status, text)
        if verb == "verify" and (status == 2) != must_be_named:
            wrong.append(f"verify ended with {status}: {text}")
        if verb == "verify" and status == 2 and not any(name in text for name in {*before, *after}):
            wrong.append(f"verify names no file: {text}")

    def read(what: str) -> None:
        try:
            there = values(directory)
        except FiprayError as error:
            if not is_damaged:
                wrong.append(f"{what}: the directory is whole, but {error}")
        except BaseException:
            wrong.append(f"{what}: {traceback.format_exc()}")
        else:
            if not (parts_of(there, whole) if lost_commits else same(there, whole)):
                wrong.append(f"{what}: values are others")

    read("load")
    export = directory.with_name("exported.safetensors")
    status, text = command("export", directory, "--path", "sparse", "--to", export)
    said("export", status, text)
    if status == 0 and "exported" in whole and export.read_bytes() != whole["exported"]:
        wrong.append("the exported file is another")
    export.unlink(missing_ok=True)
    said("compact", *command("compact", directory))
    read("load after compact")
    status, text = run(directory)
    said("run", status, text)
    if must_be_named and status == 0:
        wrong.append("the run passed over the damage")
    if status == 0:
        again, once = (
            values(directory, without=_OF_AN_ATTEMPT),
            {
                name: value.drop(columns=list(_OF_AN_ATTEMPT), errors="ignore")
                if isinstance(value, pd.DataFrame)
                else value
                for name, value in whole.items()
                if name != "exported"
            },
        )
        if not same(again, once):
            wrong.append("values are others after the run")
    return wrong


def damages(places: dict[str, Path], count: int, seed: int, only: str) -> tuple[Counter[str], list[str]]:
    """`count` damages in turn to each kind of file, by the kind."""
    draws, done, failures = random.Random(seed), Counter[str](), list[str]()
    wholes = {name: values(place) for name, place in places.items()}
    for number in range(count):
        where = [*places][number % len(places)]
        with tempfile.TemporaryDirectory(prefix="fd", dir="/tmp") as scratch:
            directory = Path(scratch) / "results"
            shutil.copytree(places[where], directory)
            files: dict[str, list[Path]] = defaultdict(list)
            for file in sorted(directory.rglob("*")):
                if file.is_file() and file.stat().st_size:
                    files[file.relative_to(directory).parts[0]].append(file)
            kind = [*files][number // len(places) % len(files)]
            damage = draws.choice([*DAMAGES])
            file = draws.choice(files[kind])
            what = f"{damage} in {kind}"
            if only not in what:
                continue
            found = check_damage(directory, wholes[where], partial(DAMAGES[damage], file, draws))
            done[what] += 1
            failures += [f"{number}: {what}, {where}, {file.relative_to(directory)}: {wrong}" for wrong in found]
    return done, failures


def tree(place: Path) -> dict[str, tuple[object, ...]]:
    """All that can be seen of what is below a place, also when files were read."""
    return {
        str(file.relative_to(place)): (
            info.st_mode,
            info.st_ino,
            info.st_mtime_ns,
            0 if file.is_dir() else (info.st_size, info.st_atime_ns),
        )
        for file in sorted(place.rglob("*"))
        for info in [file.lstat()]
    }


def verbs(directory: Path) -> None:
    """Every verb on a directory, one after the other, as JSON lines."""
    elsewhere = directory.parent / "own"

    def library(job: Callable[[], object]) -> tuple[int, str]:
        try:
            return 0, repr(job())
        except FiprayError as error:
            return 2, str(error)
        except BaseException:
            return -1, traceback.format_exc()

    def place_of_trials() -> None:
        Store.create_or_open(copy, manifest).beside(".tune")

    def plots() -> None:
        results = analysis.load(directory)
        for plot in (analysis.plot_points, analysis.plot_robustness, analysis.plot_sparsity, analysis.plot_transfer):
            with contextlib.suppress(fip.errors.UsageError):
                plot(results).savefig(elsewhere / "plot.png")
        analysis.plot_lineage(results).savefig(elsewhere / "plot.png")

    manifest = study().manifest
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy, symlinks=True, copy_function=_copy_any)
    jobs: dict[str, Callable[[], tuple[int, str]]] = {
        "verify": lambda: command("verify", directory),
        "show": lambda: command("show", directory),
        "load": lambda: library(lambda: (repr(analysis.load(directory)), [*values(directory)])),
        "plots": lambda: library(plots),
        "export": lambda: command("export", directory, "--path", "sparse", "--to", elsewhere / "x.safetensors"),
        "export a variant": lambda: command(
            "export", directory, "--path", "sparse", "--sparsity", 0.3, "--to", elsewhere / "y.pt"
        ),
        "doctor": lambda: command("doctor", "--into", directory),
        "search": lambda: library(place_of_trials),
        "compact": lambda: command("compact", directory),
        "compact again": lambda: library(lambda: compact(Store.open(copy), max_rows=10)),
        "run": lambda: run(directory, "--tensorboard", elsewhere / "curves"),
        "show after the run": lambda: command("show", directory),
    }
    for name, job in jobs.items():
        print(json.dumps([name, *job()]), flush=True)


def _copy_any(source: str, target: str) -> None:
    """Copy a file or link; of a huge sparse file only its size, of anything else nothing."""
    there = os.lstat(source)
    if stat.S_ISREG(there.st_mode) and there.st_size > 2**30:
        Path(target).touch()
        os.truncate(target, there.st_size)
    elif stat.S_ISREG(there.st_mode) or stat.S_ISLNK(there.st_mode):
        shutil.copy(source, target, follow_symlinks=False)


def in_a_process(job: Callable[[], object], sandbox: Path) -> tuple[int, str]:
    """Run a job in a process that is killed after a time limit; return its status and output."""
    answer = sandbox / "tmp" / "answer"
    child = os.fork()
    if not child:
        status = 1
        try:
            os.chdir(sandbox / "here")
            os.environ |= {"TMPDIR": str(sandbox / "tmp"), "HOME": str(sandbox / "tmp")}
            tempfile.tempdir = None
            with answer.open("w") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                try:
                    job()
                    status = 0
                except BaseException:
                    traceback.print_exc()
        finally:
            os._exit(status)  # whatever happened: nothing of the parent's is done twice
    deadline = time.monotonic() + VERBS_SECONDS
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < deadline:
        time.sleep(0.05)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return HANGS, answer.read_text()
    return os.waitstatus_to_exitcode(status), answer.read_text()


def check_hostile(whole: Path, name: str) -> list[str]:
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fh", dir="/tmp", ignore_cleanup_errors=True) as scratch:
        sandbox = Path(scratch)
        directory, outside = sandbox / "results", sandbox / "outside"
        shutil.copytree(whole, directory)
        make_outside(outside)
        HOSTILE[name](directory, outside)
        for place in ("own", "tmp", "here"):
            (sandbox / place).mkdir()
        for file in outside.rglob("*"):
            os.utime(file, (0, 1))  # read before it was written: then the system notes when it is read again
        before = {place: tree(sandbox / place) for place in ("outside", "here")}
        status, answer = in_a_process(lambda: verbs(directory), sandbox)
        if status:
            wrong.append(f"{'hangs' if status == HANGS else f'ended with {status}'}: {answer[-1500:]}")
        for line in answer.splitlines() if not status else ():
            verb, status, text = json.loads(line)
            if (status not in (0, 2) and (verb, status) != ("doctor", 1)) or "Traceback" in text:
                wrong.append(f"{verb} ended with {status}: {text[-1500:]}")
            if verb == "verify" and (status == 0) != (name in HARMLESS):
                wrong.append(f"verify ended with {status}: {text[-500:]}")
            if SECRET in text or "\x1b" in text or "\u202e" in text:
                wrong.append(f"{verb} shows what it may not")
        after = {place: tree(sandbox / place) for place in ("outside", "here")}
        for place, files in before.items():
            changed = [file for file in {*files, *after[place]} if files.get(file) != after[place].get(file)]
            if changed:
                wrong.append(f"{place} was touched: {sorted(changed)}")
        strangers = {file.name for file in sandbox.iterdir()} - {"results", "copy", "outside", "own", "tmp", "here"}
        if strangers:
            wrong.append(f"made outside: {strangers}")
    return [f"{name}: {each}" for each in wrong]


def notes_reading() -> bool:
    """Whether the file system notes when a file was read."""
    with tempfile.TemporaryDirectory(prefix="fh", dir="/tmp") as scratch:
        file = Path(scratch) / "file"
        file.write_text("x")
        os.utime(file, (0, 1))
        file.read_text()
        return file.stat().st_atime > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds of damages and hostile directories that hold this text")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fd", dir="/tmp") as scratch:
        plain, compacted = Path(scratch) / "plain", Path(scratch) / "compacted"
        status, text = run(plain)
        assert status == 0, text
        shutil.copytree(plain, compacted)
        compact(Store.open(compacted))
        done, found = damages({"plain": plain, "compacted": compacted}, args.damages, args.seed, args.only)
        failures += found
        for what, count in sorted(done.items()):
            print(f"{count:4d}  {what}")
        print(f"{sum(done.values())} damages, {len(found)} failures", flush=True)
        if not notes_reading():
            print("this file system does not note when files are read: that nothing outside is read is not checked")
        count = 0
        import_module("fipray.cluster.doctor"), import_module("matplotlib.figure")  # once, before there are processes
        for name in HOSTILE:
            if args.only in name:
                found = check_hostile(plain, name)
                failures += found
                count += 1
                print(f"{'fail' if found else 'ok':4}  {name}", flush=True)
        print(f"{count} hostile directories")
    for failure in failures:
        print(f"\n{failure}")
    print(f"{len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
