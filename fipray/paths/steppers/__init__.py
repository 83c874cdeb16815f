"""The steppers that come with fipray, one module each."""

from fipray.paths.steppers.compose import Corrected, Switch
from fipray.paths.steppers.first_order import FirstOrderStep
from fipray.paths.steppers.kronecker import KroneckerStep
from fipray.paths.steppers.natural import NaturalStep
from fipray.paths.steppers.null_space import InputNullSpaceStep
from fipray.paths.steppers.projected import ProjectedStep
from fipray.paths.steppers.published import OneShot, PublishedStep

__all__ = [
    "Corrected",
    "FirstOrderStep",
    "InputNullSpaceStep",
    "KroneckerStep",
    "NaturalStep",
    "OneShot",
    "ProjectedStep",
    "PublishedStep",
    "Switch",
]
