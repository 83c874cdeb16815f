"""Budget of a recipe: seconds, or steps."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fipray.errors import UsageError

DEFAULT_SECONDS = 600.0
_UNITS = {"s": 1, "sec": 1, "second": 1, "min": 60, "minute": 60, "h": 3600, "hour": 3600}
_TEXT = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-zA-Z]*)\s*")
Given = str | float | int | Mapping[str, int] | None
"""What a recipe takes as its budget: "10 min", "90 s", seconds as a number, {"steps": N}, or None."""


@dataclass(frozen=True)
class Budget:
    """Budget of a recipe; exactly one of the two is set.

    Args:
        seconds: wall-clock seconds, the trial included; None where steps are given.
        steps: number of steps of each path; None where seconds are given.
    """

    seconds: float | None
    steps: int | None = None

    @classmethod
    def of(cls, given: Given) -> Budget:
        """Read a budget.

        Args:
            given: "10 min", "90 s", "1.5 h", seconds as a number, {"steps": N} or "N steps"; None for ten minutes.

        Returns:
            The budget.

        Raises:
            UsageError: for anything else, and for numbers that are not above 0.
        """
        if given is None:
            return cls(DEFAULT_SECONDS)
        if isinstance(given, Mapping):
            steps = given.get("steps")
            if set(given) != {"steps"} or type(steps) is not int or steps < 1:
                raise _refused(given)
            return cls(None, steps)
        if isinstance(given, str):
            return cls._read(given)
        if isinstance(given, bool) or not 0 < given < math.inf:
            raise _refused(given)
        return cls(float(given))

    @classmethod
    def _read(cls, text: str) -> Budget:
        found = _TEXT.fullmatch(text)
        if found is None or not float(found["number"]) > 0:
            raise _refused(text)
        number, unit = float(found["number"]), found["unit"].lower()
        if unit in ("step", "steps") and number.is_integer():
            return cls(None, int(number))
        scale = _UNITS.get(unit.removesuffix("s") or "s") if unit else 1
        if scale is None:
            raise _refused(text)
        return cls(number * scale)

    @property
    def text(self) -> str:
        """The budget as `of` reads it, for records and messages."""
        return f"{self.steps} steps" if self.steps is not None else f"{self.seconds:g} s"


def _refused(given: object) -> UsageError:
    return UsageError(
        f"a budget is a time such as '10 min', '90 s' or 600 (seconds), or {{'steps': 500}}; {given!r} was given"
    )
