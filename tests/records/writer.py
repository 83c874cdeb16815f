"""A process that writes a small study, for tests that kill it.

`python -m tests.records.writer DIRECTORY` says on standard output what it has just done, a line each.

`python -m tests.records.writer --dying DIRECTORY` writes DIRECTORY/1, DIRECTORY/2, ...: the child that writes the n-th
kills itself before its n-th call to the file system, and the last child lives to the end.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from pathlib import Path

import numpy as np

from fipray.records import Store
from tests.records.rows import STUDY, path_row, point_rows

NUM_POINTS = 4
MANIFEST = {"study": STUDY, "study_id": "0123456789abcdef", "parameters": {"points": NUM_POINTS}}
TOUCHING = {"open", "os.mkdir", "os.rename", "os.remove"}


def write_study(directory: Path, num_paths: int, say: Callable[[str], object] = lambda line: None) -> None:
    """Write the missing results, as a runner does."""
    store = Store.create_or_open(directory, MANIFEST)
    say("opened")
    store.write_base({"weights": np.zeros(3, np.float32)})
    for number in range(num_paths):
        id, name = f"id{number}", f"path-{number}"
        if store.is_committed(id):
            continue
        attempt = store.next_attempt(id)
        say(f"{id} began")
        file, sha256 = store.write_weights(id, attempt, "end", {"weights": np.arange(3, dtype=np.float32) + attempt})
        say(f"{id} has weights")
        named = {"weights_file": file, "weights_sha256": sha256}
        points = point_rows(id, name, attempt, NUM_POINTS)
        points[-1] |= named
        store.commit(id, "path", attempt, {"paths": [path_row(id, name, attempt, **named)], "points": points})
        say(f"{id} is committed")


def do_without_pandas() -> None:
    """Keep pyarrow from importing pandas, which takes a second."""

    class NoPandas(MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "pandas":
                raise ImportError(name)

    sys.meta_path.insert(0, NoPandas())


def _write_dying(directory: Path, moment: int) -> None:
    countdown = itertools.count(moment, -1)

    def die_in_time(event: str, arguments: tuple[object, ...]) -> None:
        # Calls with a directory handle have relative names.
        place = Path(str(arguments[0])) if event in TOUCHING else None
        ours = event == "fcntl.flock" or (place and (place.is_relative_to(directory) or not place.is_absolute()))
        if ours and next(countdown) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(die_in_time)
    write_study(directory, 1)


def _main() -> None:
    do_without_pandas()
    *dying, directory = sys.argv[1:]
    if not dying:
        write_study(Path(directory), 1000, lambda line: (sys.stdout.write(f"{line}\n"), sys.stdout.flush()))
        return
    write_study(Path(directory, "0"), 1)  # lazy imports happen here, so that no child has to
    for moment in itertools.count(1):
        child = os.fork()
        if child == 0:
            _write_dying(Path(directory, str(moment)), moment)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _main()
