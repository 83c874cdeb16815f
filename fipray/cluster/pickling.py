"""Pickling for workers that have fipray installed but not the study's own modules."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
from ray import cloudpickle


@contextmanager
def by_value() -> Iterator[None]:
    """Make Ray pickle the classes and functions of modules that are not installed by value, inside this context.

    A study, its objectives and its network come from modules that may exist on the driver's disk only. They are sent
    like those of `__main__`: by value, with the globals that they use. This needs no runtime environment, so it works
    together with that of a Ray job.
    """
    # Modules that the user registered stay registered.
    before = cloudpickle.list_registry_pickle_by_value()
    new = [module for module in _uninstalled_modules(len(sys.modules)) if module.__name__ not in before]
    for module in new:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in new:
            cloudpickle.unregister_pickle_by_value(module)


def put(value: Any, note: Callable[[str], None]) -> ray.ObjectRef:
    """Put a value into Ray's object store, pickled `by_value`, or by reference if that fails.

    Args:
        value: the value.
        note: called with a message when the value is pickled by reference.

    Returns:
        Reference to the object.
    """
    try:
        with by_value():
            return ray.put(value)
    except ray.exceptions.RayError:
        raise
    except Exception as error:  # pickling runs code of the objects, which may raise anything
        note(f"the study's modules cannot be pickled, so workers must be able to import them: {error}")
        return ray.put(value)


def dumps(value: Any) -> bytes:
    """Pickle a small value `by_value`, or by reference if that fails.

    Args:
        value: the value.

    Returns:
        Bytes for `ray.cloudpickle.loads`.
    """
    try:
        with by_value():
            return cloudpickle.dumps(value)
    except Exception:  # `put` has already reported it
        return cloudpickle.dumps(value)


@lru_cache(maxsize=1)
def _uninstalled_modules(num_loaded: int) -> list[ModuleType]:
    """List the loaded modules whose files are outside of the Python installation, without fipray.

    num_loaded: number of all loaded modules, as the cache's key. A search through thousands takes milliseconds, too
    long for each job, and finds nothing new while the number is the same.
    """
    python = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")]

    def is_uninstalled(name: str, file: str | None) -> bool:
        if not file or name.partition(".")[0] in ("fipray", "ray", "__main__", "__mp_main__"):
            return False
        is_installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
        return not is_installed and not any(Path(file).is_relative_to(folder) for folder in python)

    loaded = list(sys.modules.items())
    return [module for name, module in loaded if is_uninstalled(name, getattr(module, "__file__", None))]
