"""Files that others made, and that studies only read."""

from __future__ import annotations

import os
from pathlib import Path

from fipray.errors import UsageError


def given_file(name: str, root: str = "") -> Path:
    """`name` in the folder `root`, or in the one that FIPRAY_DATA names, or in `shared/data` beside the checkout."""
    folder = Path(root or os.environ.get("FIPRAY_DATA", "") or "../shared/data")
    if not (folder / name).is_file():
        raise UsageError(f"{folder} holds no {name}: set FIPRAY_DATA to the folder that has {name} in it")
    return folder / name
