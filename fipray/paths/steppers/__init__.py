"""Steppers, one module each, and the types that a stepper of your own uses.

A stepper proposes the next displacement along a path: it goes down the objective and keeps the function.
"""

from fipray.paths.stepper import Proposal as Proposal, Situation as Situation, Stepper as Stepper
from fipray.paths.steppers.compose import Corrected as Corrected, Switch as Switch
from fipray.paths.steppers.first_order import FirstOrder as FirstOrder
from fipray.paths.steppers.input_null_space import InputNullSpace as InputNullSpace
from fipray.paths.steppers.kronecker import Kronecker as Kronecker
from fipray.paths.steppers.natural import Natural as Natural
from fipray.paths.steppers.projected import Projected as Projected
from fipray.paths.steppers.published import OneShot as OneShot, Published as Published
from fipray.paths.steppers.within_allowance import WithinAllowance as WithinAllowance
