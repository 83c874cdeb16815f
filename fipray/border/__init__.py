"""The public border: arguments are checked against their annotations where users give them. Knows the errors alone."""

from fipray.border.checking import checked
from fipray.border.wording import a_class, described, names_that_fit

__all__ = ["a_class", "checked", "described", "names_that_fit"]
