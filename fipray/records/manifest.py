"""The manifest of a results directory: which study it is of, and with which parameters."""

from collections.abc import Mapping
from typing import Any

from fipray.errors import CorruptFileError, RecordsError, UsageError
from fipray.records import layout
from fipray.records.encoding import json_bytes, read_json
from fipray.records.files import Files
from fipray.records.schema import SCHEMA_VERSION

Manifest = Mapping[str, Any]
_REQUIRED = ("study", "study_id", "parameters")


def manifest_bytes(manifest: Manifest) -> bytes:
    """The file's content: the manifest and the schema version. Raises UsageError for one that lacks something."""
    if missing := [key for key in _REQUIRED if key not in manifest]:
        raise UsageError(f"a manifest lacks {', '.join(missing)}; it has {', '.join(manifest) or 'nothing'}")
    layout.checked_name(manifest["study"])
    return json_bytes({**manifest, "schema_version": SCHEMA_VERSION})


def read_manifest(files: Files) -> Manifest:
    """The manifest that is in the directory. Raises RecordsError where there is none, or one of another version."""
    try:
        manifest = read_json(files.read(layout.MANIFEST))
    except (FileNotFoundError, RecordsError) as error:
        why = "" if isinstance(error, FileNotFoundError) else f" ({error})"
        raise RecordsError(
            f"no results directory: no {layout.MANIFEST} in {files.address}{why}. "
            "Name a directory that a study was run into"
        ) from error
    except ValueError as error:
        raise CorruptFileError(
            f"{files.named(layout.MANIFEST)} is truncated or altered. {layout.remedy(layout.MANIFEST)}"
        ) from error
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise RecordsError(
            f"{files.address} has schema version {manifest['schema_version']} and this fipray reads {SCHEMA_VERSION}. "
            "Use the version of fipray that wrote it"
        )
    return manifest


def check_same_study(address: str, there: Manifest, here: Manifest) -> None:
    """Raises UsageError, saying which parameters differ, where the directory is of another study than `here`."""
    if there["study_id"] == here["study_id"]:
        return
    old, new = there["parameters"], read_json(json_bytes(here["parameters"]))
    differences = [
        f"{key} is {old.get(key, 'not set')!r} there and {new.get(key, 'not set')!r} here"
        for key in sorted(old.keys() | new.keys())
        if key not in old or key not in new or old[key] != new[key]
    ]
    why = "; ".join(differences) or "the parameters are the same, so what they are put to differs"
    raise UsageError(
        f"{address} holds study {there['study']!r} ({there['study_id']}), "
        f"not {here['study']!r} ({here['study_id']}): {why}. Choose another directory, or run the study that is there"
    )
