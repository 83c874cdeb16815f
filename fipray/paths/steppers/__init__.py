"""Steppers, one module each, and what a stepper of your own implements or is given."""

from fipray.paths.stepper import Proposal, Situation, Stepper
from fipray.paths.steppers.compose import Corrected, Switch
from fipray.paths.steppers.first_order import FirstOrder
from fipray.paths.steppers.input_null_space import InputNullSpace
from fipray.paths.steppers.kronecker import Kronecker
from fipray.paths.steppers.natural import Natural
from fipray.paths.steppers.projected import Projected
from fipray.paths.steppers.published import OneShot, Published

__all__ = [
    "Corrected",
    "FirstOrder",
    "InputNullSpace",
    "Kronecker",
    "Natural",
    "OneShot",
    "Projected",
    "Proposal",
    "Published",
    "Situation",
    "Stepper",
    "Switch",
]
