"""Searches over the settings of a path: domains, the search as data, and `run`, with Ray Tune."""

from typing import TYPE_CHECKING, Any

from fipray.study.search import Search
from fipray.study.space import Choice, Integers, LogUniform, Uniform

if TYPE_CHECKING:
    from fipray.cluster.tune.search import search as run

__all__ = ["Choice", "Integers", "LogUniform", "Search", "Uniform", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":  # loaded on first use, so that a search can be defined without importing Ray
        from fipray.cluster.tune.search import search

        return search
    raise AttributeError(f"module 'fipray.search' has no name {name!r}; it has: {', '.join(__all__)}")
