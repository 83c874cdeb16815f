"""Runner on Ray. The only package that imports Ray."""

from fipray.cluster.runner import RayRunner

__all__ = ["RayRunner"]
