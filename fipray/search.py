"""Searches over the fields of a path's spec: domains, the search, and `run`, which runs it with Ray Tune."""

from typing import TYPE_CHECKING, Any

from fipray.study.search import Search
from fipray.study.space import Choice, Integers, LogUniform, Uniform

if TYPE_CHECKING:
    from fipray.cluster.search import search as run

__all__ = ["Choice", "Integers", "LogUniform", "Search", "Uniform", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":  # imported on first use, so that a search can be described without Ray
        from fipray.cluster.search import search

        return search
    raise AttributeError(f"module 'fipray.search' has no attribute {name!r}; it has: {', '.join(__all__)}")
