"""What the driver sends to workers that have fipray, and not the study's own modules."""

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
    """What is pickled by Ray meanwhile takes along the classes and functions of modules that are not installed.

    A study, its objectives and its network come from modules beside it that may be on the driver's disk alone. They
    are sent as those of `__main__` always are: by value, with the globals that they use. That needs no runtime
    environment, so a Ray job's own stands beside it.
    """
    before = cloudpickle.list_registry_pickle_by_value()
    new = [module for module in _own_modules(len(sys.modules)) if module.__name__ not in before]
    for module in new:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in new:
            cloudpickle.unregister_pickle_by_value(module)


def put(value: Any, note: Callable[[str], None]) -> ray.ObjectRef:
    """Puts a value into Ray's object store, `by_value`. What refuses to be pickled so goes by its module's name."""
    try:
        with by_value():
            return ray.put(value)
    except ray.exceptions.RayError:
        raise
    except Exception as error:  # pickling calls whatever the objects bring along
        note(f"the study's modules are not sent, so workers must be able to import them: {error}")
        return ray.put(value)


def packed(value: Any) -> bytes:
    """A small value, `by_value` where it needs to be; `ray.cloudpickle.loads` unpacks it."""
    try:
        with by_value():
            return cloudpickle.dumps(value)
    except Exception:  # as above, where it is told of
        return cloudpickle.dumps(value)


@lru_cache(maxsize=1)
def _own_modules(num_loaded: int) -> list[ModuleType]:
    """Those that are loaded from files outside of the Python installation, but for fipray, which all workers have.

    num_loaded: of all modules; to look at thousands takes milliseconds, and nothing is new while there are as many.
    """
    python = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")]

    def is_own(name: str, file: str | None) -> bool:
        if not file or name.partition(".")[0] in ("fipray", "ray", "__main__", "__mp_main__"):
            return False
        is_installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
        return not is_installed and not any(Path(file).is_relative_to(folder) for folder in python)

    return [module for name, module in list(sys.modules.items()) if is_own(name, getattr(module, "__file__", None))]
