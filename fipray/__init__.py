"""Functionally invariant paths through the weight space of a network, many at once, on Ray.

The names of `__init__.pyi` are loaded on first use: `import fipray` loads neither torch nor Ray nor pandas.
"""

from typing import Any
from warnings import warn

import lazy_loader

from fipray.missing import explained
from fipray.moved import MOVED

__version__ = "0.1.0"

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    if name in MOVED:
        warn(f"fipray.{name} is now fipray.{MOVED[name]}", DeprecationWarning, stacklevel=2)
        namespace, _, moved = MOVED[name].partition(".")
        return getattr(_load(namespace), moved)
    if name not in __all__:
        raise AttributeError(f"module 'fipray' has no name {name!r}; it has: {', '.join(sorted(__all__))}")
    try:
        return _load(name)
    except ImportError as error:
        # `from None`: of the traceback into other packages nothing says more than the message.
        if missing := explained(error, f"fipray.{name}"):
            raise missing from None
        raise
