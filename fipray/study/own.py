"""Which code is the user's own: neither fipray's nor Python's nor installed."""

from __future__ import annotations

import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

import fipray

_FIPRAY = Path(fipray.__file__).parent
_PYTHON = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")]
_INSTALLED = {"site-packages", "dist-packages"}


@lru_cache(maxsize=4096)
def is_own_file(file: str) -> bool:
    """Whether a file is of the user's own code. What has no file, such as `<stdin>` or a notebook's cell, is."""
    if file.startswith("<frozen"):
        return False
    path = Path(file)
    if _INSTALLED & set(path.parts) or path.is_relative_to(_FIPRAY):
        return False
    return not any(path.is_relative_to(folder) for folder in _PYTHON)


def is_own_module(name: str) -> bool:
    """Whether the module of that name is the user's own."""
    top = name.partition(".")[0]
    if top == "fipray" or top in sys.builtin_module_names:
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    return top in ("__main__", "__mp_main__") or (is_own_file(file) if file else top not in sys.stdlib_module_names)
