"""Descriptions of values and annotations for error messages."""

from __future__ import annotations

import inspect
import sys
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from fipray.border.protocols import lacking
from fipray.registry import registered_classes

_PLAIN = {int: "an integer", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}
_ARRAYS_OF = {"integer": " of integers", "floating": " of floating-point numbers"}
_LONGEST = 60  # characters of a value that are shown
_DTYPES = {"Float": "floating-point ", "Int": "integer ", "Int64": "int64 ", "Bool": "boolean ", "Shaped": ""}


def described(value: Any) -> str:
    """Describe a value for an error message.

    Args:
        value: anything.

    Returns:
        Dtype and shape of an array, the text of a short value, or otherwise the class with its article.
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        text = repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    if _is_array(value):
        what = "tensor" if type(value).__module__.startswith("torch") else "numpy array"
        return a_class(
            f"{oddity(value)}{str(value.dtype).removeprefix('torch.')} {what} [{', '.join(map(str, value.shape))}]"
        )
    if isinstance(value, (tuple, list)) and len(repr(value)) <= _LONGEST:
        return f"the {type(value).__name__} {value!r}"
    return a_class(type(value).__name__)


def a_class(name: str) -> str:
    """Add the indefinite article to a name.

    Args:
        name: such as "Adam".

    Returns:
        Such as "an Adam".
    """
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"


def expected(hint: Any) -> str:
    """Describe the values that an annotation accepts.

    Args:
        hint: the annotation, evaluated.

    Returns:
        Such as "an integer or None".
    """
    # Imported here, because importing beartype would slow down `import fipray`.
    from fipray.border.kinds import Seed

    origin, inner = get_origin(hint), get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin in (Union, UnionType):
        return _or([expected(one) for one in inner])
    if origin is Annotated:
        return "a seed, an integer from 0 to 2^63 - 1" if hint == Seed else expected(inner[0])
    if origin is Literal:
        return _or([repr(one) for one in inner])
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"a tuple of {len(inner)}: {', '.join(map(expected, inner))}"
    if _is_mapping(origin):
        return f"a mapping from {expected(inner[0])} to {expected(inner[1])}"
    if hasattr(hint, "dim_str"):
        what = {"Tensor": "tensor", "ndarray": "numpy array"}.get(hint.array_type.__name__, "array")
        shape = hint.dim_str.strip().replace("_", "N").replace(" ", ", ")
        return a_class(f"{_DTYPES.get(hint.__name__.partition('[')[0], '')}{what} [{shape}]")
    if getattr(origin, "__name__", "") == "ndarray":
        return "a numpy array" + _ARRAYS_OF.get(getattr(get_args(inner[1])[0], "__name__", ""), "")
    if getattr(origin, "__name__", "") == "Callable":
        return "a function" if inner[0] is Ellipsis else f"a function of {', '.join(map(_short, inner[0]))}"
    if inner and getattr(origin, "__name__", "") in ("tuple", "Sequence", "Collection"):
        return f"a tuple, of which each item is {expected(inner[0])}"
    if getattr(hint, "_is_protocol", False) and (fitting := list(classes_that_fit(hint))):
        return f"{a_class(hint.__name__)}, such as {_or(fitting)}"
    return _short(hint)


def _short(hint: Any) -> str:
    return _PLAIN.get(hint) or (a_class(hint.__name__) if isinstance(hint, type) else str(hint))


def classes_that_fit(protocol: Any) -> dict[str, type]:
    """Find classes that implement a protocol, among the names of imported floors and registered specs.

    Args:
        protocol: the protocol class.

    Returns:
        Classes by name that have the protocol's members, with arguments of the same names.
    """
    members = [name for name in vars(protocol) if not name.startswith("_")]
    library = protocol.__module__.partition(".")[0]
    floors = [module for name, module in list(sys.modules.items()) if name.rpartition(".")[0] == library]
    public = {name: vars(floor).get(name) for floor in floors for name in vars(floor).get("__all__", ())}
    public |= {cls.__name__: cls for cls in registered_classes() if cls.__module__.startswith(f"{library}.")}
    return {
        name: cls
        for name, cls in sorted(public.items())
        if isinstance(cls, type)
        and not getattr(cls, "_is_protocol", False)
        and all(_arguments(cls, member) == _arguments(protocol, member) for member in members)
    }


def _arguments(cls: Any, member: str) -> list[str] | None:
    """Names of a method's arguments; empty for a property or attribute, None where the member is missing."""
    found = getattr(cls, member, None)
    if found is None:
        return None
    return list(inspect.signature(found).parameters) if callable(found) else []


def subject(hint: Any) -> str:
    """Subject of an annotation, which decides the class of the error.

    Args:
        hint: the annotation, evaluated.

    Returns:
        "array", "network", or empty for anything else.
    """
    for one in (hint, get_origin(hint), *get_args(hint)):
        name = getattr(one, "__name__", "")
        if hasattr(one, "dim_str") or name in ("Tensor", "ndarray"):
            return "array"
        if name in ("Network", "Module"):
            return "network"
        if get_origin(one) in (Union, UnionType) and one is not hint and (found := subject(one)):
            return found
    return ""


def advice(value: Any, hint: Any) -> str:
    """Advice on frequent mistakes.

    Args:
        value: the value that does not fit.
        hint: the annotation, evaluated.

    Returns:
        A sentence to append, beginning with a full stop and a space; empty where no advice is known.
    """
    # Classes are compared by name, so that torch, pandas and the floors above need not be imported.
    names = {one.__name__ for one in type(value).__mro__}
    wanted = {getattr(one, "__name__", "") for one in _alternatives(hint)}
    arrays = {one.array_type.__name__ for one in _alternatives(hint) if hasattr(one, "array_type")} | wanted
    found = ""
    if isinstance(value, type) and not wanted & {"type"}:
        found = f"Give an instance: {value.__name__}(...)"
    elif oddity(value):
        found = "Give a dense one that holds numbers: call to_dense() or dequantize()"
    elif "Tensor" in arrays and "DataLoader" in names:
        found = "Join the inputs of its batches: torch.cat([inputs for inputs, *_ in loader])"
    elif "Tensor" in arrays and "Dataset" in names:
        found = "Stack its inputs: torch.stack([inputs for inputs, *_ in dataset])"
    elif "Tensor" in arrays and "ndarray" in names:
        found = "Convert it with torch.from_numpy(array)"
    elif "Tensor" in arrays and names & {"list", "tuple"}:
        found = "Convert it with torch.tensor(values), or torch.stack(tensors)"
    elif "ndarray" in arrays and "Tensor" in names:
        found = "Convert it with tensor.numpy()"
    elif "ndarray" in arrays and names & {"list", "tuple", "DataFrame", "Series"}:
        found = "Convert it with numpy.asarray(values)"
    elif "Network" in wanted and "Module" in names:
        found = "Make one with Network.of(module)"
    elif "Module" in wanted and "Network" in names:
        found = "Give its module: network.module_at(network.weights)"
    elif "Results" in wanted and names & {"str", "Path"}:
        found = "Load it: fipray.analysis.load(directory)"
    elif "Adversary" in wanted and "ThreatModel" in names:
        found = "Make one: Adversary(threat_model)"
    elif wanted & {"int", "float"} and (_is_array(value) and value.shape == ()):
        found = "Give its number: value.item()"
    elif isinstance(value, float) and value != value and "float" in wanted:
        found = "NaN is not a number"
    elif "int" in wanted and isinstance(value, float) and value.is_integer():
        found = f"Give {int(value)}"
    elif isinstance(value, str) and wanted & {"tuple", "Sequence", "Collection"}:
        found = f"Give a tuple of one: ({value!r:.{_LONGEST}},)"
    elif wanted & {"tuple", "Sequence", "Collection"} and not isinstance(value, (list, tuple)):
        found = "Give a tuple, even of one item"
    else:
        protocols = [one for one in _alternatives(hint) if getattr(one, "_is_protocol", False)]
        if protocols and value is not None and not isinstance(value, (str, int, float)):
            missing = ", ".join(lacking(value, protocols[0]))
            found = f"{type(value).__name__} lacks {missing}, or its methods take other arguments"
    return f". {found}" if found else ""


def _alternatives(hint: Any) -> list[Any]:
    """Classes that an annotation allows, unions and `Annotated` taken apart."""
    if get_origin(hint) in (Union, UnionType):
        return [found for one in get_args(hint) for found in _alternatives(one)]
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    return [hint if hasattr(hint, "dim_str") else get_origin(hint) or hint]


def _or(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _is_mapping(origin: Any) -> bool:
    return getattr(origin, "__name__", "") in ("Mapping", "dict")


def oddity(value: Any) -> str:
    """Name the kind of a tensor that is not dense or holds no numbers.

    Args:
        value: anything.

    Returns:
        One word with a space after it, such as "sparse "; empty for dense tensors and all else.
    """
    if not (_is_array(value) and hasattr(value, "is_meta")):
        return ""
    kinds = {
        "meta ": value.is_meta,
        "nested ": value.is_nested,
        "quantised ": value.is_quantized,
        "sparse ": str(value.layout) != "torch.strided",
    }
    return next((kind for kind, holds in kinds.items() if holds), "")


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "ndim")
