"""Study files, loaded as `import` would load them from their own folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from fipray.errors import UsageError

_LOADED = "__fipray_study_file__"  # marks a module that was loaded here


def loaded(file: Path) -> ModuleType:
    """Execute a file as a module.

    The module has the file's name, so that specs of its classes refer to it as an import would. The file's folder comes
    first on `sys.path`, as when a script is run. The file is executed again at each call.

    Args:
        file: Python file.

    Returns:
        Module.

    Raises:
        UsageError: for a file that does not exist or cannot be imported, and for the name of another loaded module.
    """
    path = file.expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"there is no file {path}: name a study as file.py:function or module:function")
    name = path.stem
    if name == "__init__" or not name.isidentifier():
        raise UsageError(f"{path.name} cannot be imported: name the file with letters, digits and underscores only")
    present = sys.modules.get(name)
    if present is not None and not hasattr(present, _LOADED) and getattr(present, "__file__", None) != str(path):
        where = getattr(present, "__file__", None) or "part of Python"
        raise UsageError(f"{path} has the name of another module, {name} ({where}): rename the file")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file: a study is a function in a .py file")
    module = importlib.util.module_from_spec(spec)
    setattr(module, _LOADED, True)
    # Before its code runs: dataclasses and pickle look a class's module up in `sys.modules`.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:  # a failed import leaves no module behind
        del sys.modules[name]
        raise
    return module


def folders() -> tuple[str, ...]:
    """Folders of the loaded study files, from which workers may have to import further modules.

    Returns:
        Folders, each once.
    """
    # A copy of the values: looking at a lazy module may import others, which changes the dictionary.
    attributes = [vars(module) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    return tuple(dict.fromkeys(str(Path(names["__file__"]).parent) for names in attributes if _LOADED in names))
