"""Running it there: studies on Ray. The only place that imports ray."""

from fipray.cluster.ray_runner import RayRunner

__all__ = ["RayRunner"]
