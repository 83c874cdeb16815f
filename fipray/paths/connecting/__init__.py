"""Paths between two networks of one architecture, and alignment of their hidden units."""

from fipray.paths.connecting.align import aligned
from fipray.paths.connecting.connect import Connection, LossProfile, connect, loss_profile

__all__ = ["Connection", "LossProfile", "aligned", "connect", "loss_profile"]
