"""A study on a folder and a tar of JPEG files by reference, with random transforms, killed and resumed on Ray.

    python -m benchmarks.cluster.pictures TAR [--paths 4] [--steps 40] [--only NAME ...]

TAR holds folders `train` and `val` (or `test`) of folders of images of one size. Each study runs by two actors:

    folder  the unpacked folder, read through torchvision's ImageFolder; the driver gets `kill -9`, and runs again
    tar     the tar as it is; a worker gets `kill -9`
    fresh   the tar, transformed anew in each draw; the driver gets `kill -9`, and runs again

Rows of the first two must equal those of the study in memory, on arrays of the same inputs; those of the third must
equal those of an undisturbed run in one process. Places, durations and attempts may differ, and IDs in the first two.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fipray as fip
from benchmarks.cluster.by_reference import actors
from benchmarks.cluster.chaos import MAY_DIFFER
from fipray import analysis
from fipray.execution import Silent
from fipray.records import TABLES
from fipray.study import TarImages

FUNCTION = "benchmarks.cluster.pictures:images"
PATIENCE_SECONDS = 300.0


def images(path: str) -> dict[str, Any]:
    """Open a tar, or the folder of one, with random transforms of the training images."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    to_floats = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    turned = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomCrop(56), *to_floats])
    plain = v2.Compose([v2.CenterCrop(56), *to_floats])
    if path.endswith(".tar"):
        return {"train": TarImages(path, "train", turned), "test": TarImages(path, "test", plain)}
    return {"train": ImageFolder(f"{path}/train", turned), "test": ImageFolder(f"{path}/val", plain)}


def data(path: str, augments: bool) -> fip.Data:
    """Refer to the images."""
    return fip.Data.of(fip.DataRef(FUNCTION, "1", {"path": path}, augments), num_held_out=500, limit=3000)


def in_memory(made: fip.Data) -> fip.Data:
    """Read the same inputs into arrays."""
    return replace(
        made,
        anchors=np.asarray(made.anchors),
        held_out=np.asarray(made.held_out),
        test_inputs=np.asarray(made.test_inputs),
    )


def study(made: fip.Data, num_paths: int, num_steps: int) -> fip.Study:
    """Paths of a small network, one of them with shifted copies of the anchors, and an evaluation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 13 * 13, 20)).eval()
    settings: dict[str, Any] = {"num_steps": num_steps, "batch_size": 64, "save_at": fip.SaveAt(4, solver_state=True)}
    # Copies are made of all anchors, which are a fixed set then.
    fixed = not (isinstance(made.anchors, fip.study.ReferencedArray) and made.anchors.ref.augments)
    shifted = (fip.augmentations.Shifted(1, 2),) if fixed else ()
    paths = tuple(
        fip.PathSpec(
            f"path-{seed}",
            fip.objectives.Sparsify(0.5),
            augmentations=shifted if seed == 0 else (),
            seed=seed,
            **settings,
        )
        for seed in range(num_paths)
    )
    evaluation = fip.Evaluation(fip.ThreatModel("linf", 2 / 255), (fip.attacks.PGD(3),), num_examples=100)
    return fip.Study("pictures", module, made, paths, evaluation=evaluation)


def disturbed(directory: Path, command: list[str], killed: str) -> int:
    """Run a driver, kill it or one of its actors once a job is done, and return the jobs that were done by then."""
    with subprocess.Popen(command) as driver:
        _wait(lambda: bool(list(directory.glob("commits/*.json"))), driver)
        process = driver.pid if killed == "driver" else actors(driver.pid)[0]
        os.kill(process, signal.SIGKILL)
        done = len(list(directory.glob("commits/*.json")))
        if killed == "driver":
            driver.wait()
        elif driver.wait() != 0:
            raise SystemExit(f"the driver ended with status {driver.returncode}")
    if killed == "driver":
        subprocess.run(command, check=True)
    return done


def _wait(is_there: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    while not is_there():
        if driver.poll() is not None or time.monotonic() - began > PATIENCE_SECONDS:
            raise SystemExit("the driver ended, or did nothing for five minutes, before it could be killed")
        time.sleep(0.05)


def differences(one: Path, other: Path, ids: bool) -> list[str]:
    """Names of the tables whose rows differ."""
    first, second = analysis.load(one), analysis.load(other)
    differing = []
    for table in TABLES:
        rows, others = getattr(first, table), getattr(second, table)
        dropped = [name for name in rows if name in MAY_DIFFER or (not ids and name.endswith("_id"))]
        if not rows.drop(columns=dropped).equals(others.drop(columns=dropped)):
            differing.append(table)
    return differing


def main() -> None:
    """Run all three, and say what differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tar", type=Path)
    parser.add_argument("--paths", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="folder, tar, fresh")
    parser.add_argument("--drive", nargs=3, metavar=("PATH", "AUGMENTS", "INTO"), help="run one study on Ray")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.drive:
        path, augments, into = asked.drive
        made = study(data(path, augments == "fresh"), asked.paths, asked.steps)
        fip.RayRunner(num_workers=2).run(made, into, Silent())
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "images")
        with tarfile.open(asked.tar) as packed:
            packed.extractall(folder, filter="data")
        wrong = []
        for name, path, killed in (
            ("folder", folder, "driver"),
            ("tar", asked.tar.absolute(), "worker"),
            ("fresh", asked.tar.absolute(), "driver"),
        ):
            if asked.only and name not in asked.only:
                continue
            referenced = data(str(path), name == "fresh")
            whole = referenced if name == "fresh" else in_memory(referenced)
            fip.LocalRunner().run(study(whole, asked.paths, asked.steps), Path(scratch, f"{name}-local"))
            into = Path(scratch, name)
            command = [sys.executable, "-m", "benchmarks.cluster.pictures", str(asked.tar)]
            command += ["--paths", str(asked.paths), "--steps", str(asked.steps), "--drive", str(path), name, str(into)]
            done = disturbed(into, command, killed)
            found = differences(into, Path(scratch, f"{name}-local"), ids=name == "fresh")
            rows = len(analysis.load(into).points)
            said = f"tables that differ: {', '.join(found) or 'none'}; {rows} points"
            print(f"{name}: {killed} killed after {done} commits; {said}", flush=True)
            wrong += found
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
