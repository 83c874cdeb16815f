"""Manifest of a results directory: name, ID and parameters of the study that was run into it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from fipray.errors import CorruptFileError, RecordsError, UsageError
from fipray.records import layout
from fipray.records.encoding import json_bytes, read_json
from fipray.records.files import Files
from fipray.records.tables import SCHEMA_VERSION

Manifest = Mapping[str, Any]
_REQUIRED = ("study", "study_id", "parameters")


def manifest_bytes(manifest: Manifest) -> bytes:
    """Encode a manifest, with the schema version.

    Args:
        manifest: plain JSON data with at least `study`, `study_id` and `parameters`.

    Returns:
        Content of the file.

    Raises:
        UsageError: if one of these keys is missing, the study's name is invalid, or the data is not plain JSON.
    """
    if missing := [key for key in _REQUIRED if key not in manifest]:
        raise UsageError(f"the manifest lacks {', '.join(missing)}; it has {', '.join(manifest) or 'no keys'}")
    layout.checked_name(manifest["study"])
    return json_bytes({**manifest, "schema_version": SCHEMA_VERSION})


def read_manifest(files: Files) -> Manifest:
    """Read and validate the manifest of a results directory.

    Args:
        files: files of the directory.

    Returns:
        The manifest.

    Raises:
        RecordsError: if there is none, or one of another schema version.
        CorruptFileError: if it was truncated or altered, or an entry has a wrong type.
    """
    try:
        manifest = read_json(files.read(layout.MANIFEST))
    except (FileNotFoundError, RecordsError) as error:
        why = "" if isinstance(error, FileNotFoundError) else f" ({error})"
        raise RecordsError(
            f"not a results directory: there is no {layout.MANIFEST} in {files.address}{why}. "
            "Name a directory that a study was run into"
        ) from error
    except ValueError as error:
        raise _corrupt(files, "is truncated or altered") from error
    if missing := [key for key in (*_REQUIRED, "schema_version") if key not in manifest]:
        raise _corrupt(files, f"is not a manifest: it lacks {', '.join(missing)}")
    # Before the entries are checked, which may have other types in other versions.
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise RecordsError(
            f"{files.address} has schema version {manifest['schema_version']!r}, and this fipray reads "
            f"{SCHEMA_VERSION}. Use the version of fipray that wrote it"
        )
    for key, is_valid in _CHECKS.items():
        if key in manifest and not is_valid(manifest[key]):
            raise _corrupt(files, f"is not a manifest: {key} is {repr(manifest[key])[:200]}")
    return manifest


def num_weights(manifest: Manifest) -> int | None:
    """Count the weights of the study's network.

    Args:
        manifest: manifest of a results directory.

    Returns:
        The number; None if the manifest does not list the network's parameters.
    """
    if (parameters := manifest.get("parameters_of_module")) is None:
        return None
    return sum(math.prod(shape) for _, shape in parameters)


def num_jobs(manifest: Manifest) -> int | None:
    """Count the jobs of the study.

    Args:
        manifest: manifest of a results directory.

    Returns:
        The number; None if the manifest does not say, as that of a search.
    """
    found: int | None = manifest.get("num_jobs")
    return found


def check_same_study(address: str, stored: Manifest, given: Manifest) -> None:
    """Check that a results directory belongs to a study.

    Args:
        address: address of the directory, for the message.
        stored: manifest in the directory.
        given: manifest of the study that is about to run.

    Raises:
        UsageError: if the study IDs differ; the message lists the parameters that do.
    """
    if stored["study_id"] == given["study_id"]:
        return
    # Through JSON and back, as the stored ones were: tuples become lists there.
    old, new = stored["parameters"], read_json(json_bytes(given["parameters"]))
    differences = [
        f"{key} is {old.get(key, 'not set')!r} there and {new.get(key, 'not set')!r} here"
        for key in sorted(old.keys() | new.keys())
        if key not in old or key not in new or old[key] != new[key]
    ]
    # The one part of how passes are computed that IDs contain. Manifests of older versions do not say, or "fp32".
    there, here = (one.get("compute", {}).get("precision", "fp32") for one in (stored, given))
    if there != here:
        differences.append(f"precision is {there!r} there and {here!r} here")
    why = "; ".join(differences) or "the parameters are the same, so the network, the data or the specs differ"
    raise UsageError(
        f"{address} holds study {stored['study']!r} ({stored['study_id']}), "
        f"not {given['study']!r} ({given['study_id']}): {why}. Choose another directory, or run the stored study"
    )


def _corrupt(files: Files, what: str) -> CorruptFileError:
    return CorruptFileError(f"{files.named(layout.MANIFEST)} {what}. {layout.remedy(layout.MANIFEST)}")


def _are_parameters(value: Any) -> bool:
    """Test for a list of pairs: names of a parameter (several if layers share it), and its shape."""
    return isinstance(value, list) and all(isinstance(one, list) and len(one) == 2 and _is_one(*one) for one in value)


def _is_one(names: Any, shape: Any) -> bool:
    return (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(shape, list)
        # `type` and not isinstance, as True is an int. The bound keeps products of shapes in altered files small.
        and all(type(size) is int and 0 <= size < 2**40 for size in shape)
    )


def _are_objectives(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(mode in ("min", "max") for mode in value.values())


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _are_ensembles(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, dict)
        and isinstance(each.get("members"), list)
        and len(each["members"]) > 0
        and all(isinstance(name, str) for name in each["members"])
        and each.get("average") in ("probabilities", "outputs")
        and type(each.get("dim")) is int
        and all(_are_of_members(each[key], len(each["members"])) for key in ("weights", "temperatures") if key in each)
        for each in value.values()
    )


def _are_of_members(value: Any, num_members: int) -> bool:
    """Test for a positive number for each member; infinity and NaN are no JSON, but Python reads them."""
    return (
        isinstance(value, list)
        and len(value) == num_members
        and all(type(each) in (int, float) and 0 < each < math.inf for each in value)
    )


def _are_inputs(value: Any) -> bool:
    """Test for a description of inputs: shape of one, dtype, smallest and largest number."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("dtype"), str)
        and all(type(value.get(key)) in (int, float) for key in ("low", "high"))
        and isinstance(value.get("shape"), list)
        and all(type(size) is int and 0 <= size < 2**40 for size in value["shape"])
    )


def _is_maker(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("function"), str)
        and isinstance(value.get("parameters"), list)
        and all(isinstance(text, str) for text in value["parameters"])
    )


def _is_compute(value: Any) -> bool:
    """Test for how passes were computed; all entries are there where one is."""
    size = value.get("micro_batch") if isinstance(value, dict) else None
    return (
        isinstance(value, dict)
        and value.keys() == {"precision", "channels_last", "deterministic", "micro_batch"}
        and value["precision"] in ("fp32", "tf32", "bf16")
        and all(type(value[key]) is bool for key in ("channels_last", "deterministic"))
        and (size is None or (type(size) is int and size >= 1))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# Entries that the library reads itself. Any others belong to whoever wrote them.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "study": layout.is_name,
    "study_id": layout.is_name,
    "parameters": lambda value: isinstance(value, dict),
    "parameters_of_module": _are_parameters,
    "objectives": _are_objectives,
    "code": _are_texts,
    "architecture": _is_text,
    "form": lambda value: isinstance(value, dict),
    "ensembles": _are_ensembles,
    "inputs": _are_inputs,
    "made_by": _is_maker,
    "compute": _is_compute,
    "base_id": _is_text,
    "data_id": _is_text,
    "num_jobs": lambda value: type(value) is int and value >= 0,
    "renewals": lambda value: type(value) is int and value >= 0,
}
