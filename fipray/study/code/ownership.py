"""Recognition of the user's own code, which is neither fipray's nor Python's nor an installed package's."""

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
    """Check whether a file is of the user's own code.

    Args:
        file: file name of a module or code object.

    Returns:
        False for files of fipray, Python and installed packages. True for any other, and for code without a file, such
        as `<stdin>` or a notebook's cell.
    """
    if file.startswith("<frozen"):  # modules that Python itself needs to start
        return False
    path = Path(file)
    # fipray by its folder, too: an editable install or a checkout does not lie in site-packages.
    if _INSTALLED & set(path.parts) or path.is_relative_to(_FIPRAY):
        return False
    return not any(path.is_relative_to(folder) for folder in _PYTHON)


def is_own_module(name: str) -> bool:
    """Check whether a module is the user's own.

    Args:
        name: name of the module.

    Returns:
        True for `__main__`, for modules whose file is the user's own, and for those without a file that Python does not
        have.
    """
    top = name.partition(".")[0]
    if top == "fipray" or top in sys.builtin_module_names:
        return False
    # A notebook's or prompt's __main__ has no file; neither do built-in modules, which are left out above.
    file = getattr(sys.modules.get(name), "__file__", None)
    return top in ("__main__", "__mp_main__") or (is_own_file(file) if file else top not in sys.stdlib_module_names)
