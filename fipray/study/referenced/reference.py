"""Reference to data: the function that opens it, and its version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fipray.border import checked
from fipray.errors import UsageError

_PLAIN = (str, int, float, bool, type(None))


@checked
@dataclass(frozen=True, eq=False)
class DataRef:
    """Reference to data that every process opens for itself, so that no process holds all of it.

    The function returns one source, which is divided as `Data.of` divides it, or a dictionary of the sources "train",
    "held_out", "test" and "ood", of which "train" is needed. A source has examples by index (`len(source)`, and
    `source[i]` gives an input or a tuple (input, label)), such as a torch Dataset, a torchvision ImageFolder with a
    transform, a data set of Hugging Face or a `TarImages`; or it is a numpy memmap, a tuple (memmap, labels), or the
    path of a folder of images, of a tar of one, or of an .npy file. Opening it should be cheap.

    IDs of paths hash the function's name, the version and the parameters, how the data is divided, shapes and labels,
    but not the inputs, which nobody reads all of.

    Args:
        function: `module:function`, of a module that the workers can import, too.
        version: version of the data, such as a date. A new one recomputes what depends on the data.
        parameters: arguments of the function by name: numbers, strings, booleans and None.
        augments: draw random transforms of the source anew whenever an anchor is drawn, from the seed of the draw.
            Otherwise each example is transformed once, by its index alone, so that the data is a fixed set of inputs.

    Raises:
        UsageError: for no version, and for parameters of other types.
    """

    function: str
    version: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    augments: bool = False

    def __post_init__(self) -> None:
        if not self.version:
            raise UsageError(
                f"the data of {self.function!r} has no version: what it contains is not hashed, so that only a version "
                'tells results on these inputs from results on others: give DataRef(..., version="2026-11"), and '
                "another one whenever the inputs change"
            )
        for name, value in self.parameters.items():
            if not isinstance(value, _PLAIN):
                raise UsageError(
                    f"the parameter {name!r} of the data's function is a {type(value).__name__}: give numbers, "
                    "strings, booleans or None, from which the function makes the rest"
                )
        object.__setattr__(self, "parameters", dict(self.parameters))

    @property
    def key(self) -> str:
        """All fields as canonical JSON."""
        return json.dumps([self.function, self.version, self.parameters, self.augments], sort_keys=True)
