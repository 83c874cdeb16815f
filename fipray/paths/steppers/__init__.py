"""Steppers, one module each, and the types that a stepper of your own uses.

A stepper proposes the next displacement along a path: it goes down the objective and keeps the function.
"""

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
