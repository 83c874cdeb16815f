"""Checks of arguments against their annotations, at the public functions and classes. Imports only the errors."""

from fipray.border.answers import an_instance, number, shaped_like
from fipray.border.checking import checked
from fipray.border.protocols import takes
from fipray.border.wording import described

__all__ = ["an_instance", "checked", "described", "number", "shaped_like", "takes"]
