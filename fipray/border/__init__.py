"""The public border: arguments are checked against their annotations where users give them. Knows the errors alone."""

from fipray.border.answers import an_instance, number, shaped_like
from fipray.border.checking import checked
from fipray.border.protocols import takes
from fipray.border.wording import described

__all__ = ["an_instance", "checked", "described", "number", "shaped_like", "takes"]
