"""Kept quantities, one module each: functions of a network that must stay at given values along a path."""

from fipray.geometry.keeps.equivariant import Equivariant as Equivariant
from fipray.geometry.keeps.kept import Kept as Kept
from fipray.geometry.keeps.outputs import Outputs as Outputs
from fipray.geometry.keeps.residual import Residual as Residual
from fipray.geometry.keeps.slopes import Slopes as Slopes
