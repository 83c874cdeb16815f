"""A study's file, loaded as the module that `import` would make of it in its own folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from fipray.errors import UsageError

_LOADED = "__fipray_study_file__"  # marks a module that was loaded here


def loaded(file: Path) -> ModuleType:
    """The module that is in `file`, under the file's name, so that specs of its classes name it as imports do.

    Its folder comes first on `sys.path`, as where a script is run. Executed anew at each call.
    Raises UsageError where there is no such file, and where another module has its name already.
    """
    path = file.expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"there is no file {path}: name a study as file.py:function or module:function")
    name = path.stem
    if name == "__init__" or not name.isidentifier():
        raise UsageError(f"{path.name} cannot be imported: name the file with letters, digits and underscores")
    there = sys.modules.get(name)
    if there is not None and not hasattr(there, _LOADED) and getattr(there, "__file__", None) != str(path):
        where = getattr(there, "__file__", None) or "part of Python"
        raise UsageError(f"{path} has the name of another module, {name} ({where}): rename the file")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file: a study is a function in a .py file")
    module = importlib.util.module_from_spec(spec)
    setattr(module, _LOADED, True)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def folders() -> tuple[str, ...]:
    """The folders of the study files that were loaded, whose other modules they may import later, in workers too."""
    there = [vars(module) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    return tuple(dict.fromkeys(str(Path(names["__file__"]).parent) for names in there if _LOADED in names))
