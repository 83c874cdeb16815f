"""Selection of parameters by name."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from fipray.errors import NetworkError


def parameter_names(module: nn.Module, moving: Sequence[str] | str | None) -> list[str]:
    """Names of the parameters that may move.

    Args:
        module: the module.
        moving: names or patterns, such as "fc*.weight"; None for all parameters that require gradients. A shared
            parameter is matched by any of its names.

    Returns:
        Names in the module's order, each parameter once.

    Raises:
        NetworkError: if there are none, if a pattern matches none, or if one that matches cannot move (complex, integer
            or 8-bit numbers).
    """
    own = {id(parameter): name for name, parameter in module.named_parameters()}
    parameters = dict(module.named_parameters())
    if not parameters:
        raise NetworkError(f"{type(module).__name__} has no parameters, so there is no weight space to walk in")
    if moving is None:
        names = [name for name, parameter in parameters.items() if parameter.requires_grad]
        if not names:
            raise NetworkError(
                f"all parameters of {type(module).__name__} are frozen (requires_grad=False): choose those that may "
                'move with moving=["*"] or names such as "head.*"'
            )
    else:
        aliases = [(name, own[id(p)]) for name, p in module.named_parameters(remove_duplicate=False)]
        names = matching(moving, aliases)
    for name in names:
        if parameters[name].is_complex():
            raise NetworkError(
                f"parameter {name} is complex, and weights must be real: store its real and imaginary parts "
                "(torch.view_as_real) and join them in forward, or freeze it (requires_grad=False)"
            )
        # The vector is cast back to the parameter's dtype, and in 8 bits most steps would round to nothing.
        if not parameters[name].is_floating_point() or parameters[name].element_size() < 2:
            raise NetworkError(
                f"parameter {name} has dtype {parameters[name].dtype}, which cannot represent small steps: leave it "
                "out of moving"
            )
    return names


def matching(patterns: Sequence[str] | str, aliases: Sequence[tuple[str, str]]) -> list[str]:
    """Match names against patterns.

    Args:
        patterns: one or more names or shell-style patterns.
        aliases: pairs of a name to match and the name to return for it.

    Returns:
        Names to return of all that match, in the order of `aliases`, each once.

    Raises:
        NetworkError: if a pattern matches nothing, or no pattern is given.
    """
    # fnmatchcase and not fnmatch, which ignores case on Windows.
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    unknown = [pattern for pattern in given if not any(fnmatchcase(name, pattern) for name, _ in aliases)]
    if unknown or not given:
        raise NetworkError(
            f"no parameter is named {', '.join(map(repr, unknown)) or '(nothing was given)'}; "
            f"there are: {listed([name for name, _ in aliases], 40)}"
        )
    return list(dict.fromkeys(own for name, own in aliases if any(fnmatchcase(name, one) for one in given)))


def listed(names: Sequence[str], most: int = 5) -> str:
    """Join names for an error message.

    Args:
        names: any number of names.
        most: number of names to show.

    Returns:
        The first names, and the number of those that are left out.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
