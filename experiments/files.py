"""Published files that studies read."""

from __future__ import annotations

import os
from pathlib import Path

from fipray.errors import UsageError


def given_file(name: str, root: str = "") -> Path:
    """Path of a published file.

    Args:
        name: its name.
        root: its folder; if empty, FIPRAY_DATA or the folder `shared/data` beside the checkout.

    Returns:
        The path.

    Raises:
        UsageError: If there is no such file.
    """
    folder = Path(root or os.environ.get("FIPRAY_DATA", "") or "../shared/data")
    if not (folder / name).is_file():
        raise UsageError(f"{folder} holds no {name}: set FIPRAY_DATA to the folder that has {name} in it")
    return folder / name
