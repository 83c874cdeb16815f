"""A results directory that was made by other code of the user's own than there is now."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from fipray.errors import UsageError
from fipray.records import Store, renew

Changed = Literal["stop", "redo"]
CHOICES = ("stop", "redo")
_MOST_NAMED = 6


def opened(directory: str | Path, manifest: Mapping[str, Any], keep: Collection[str], changed: Changed) -> Store:
    """The results directory of a study or search.

    Args:
        directory: made where it is missing.
        manifest: as `Store.create_or_open` takes it, with the digests of the user's own code as "code".
        keep: the ids that are valid with the code as it is now.
        changed: where the directory was made by other code, "stop", or "redo" what depends on it: rows of other ids
            then no longer count.

    Raises UsageError, with what has changed, where it is to stop; and as `Store.create_or_open` does.
    """
    if changed not in CHOICES:
        raise UsageError(f"changed={changed!r} is neither of {', '.join(map(repr, CHOICES))}")
    store = Store.create_or_open(directory, manifest)
    before, now = store.manifest.get("code", {}), manifest["code"]
    if before == now:
        return store
    if changed == "redo":
        return renew(store, manifest, keep)
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    raise UsageError(
        f"{store.address} was made by other code: {', '.join(map(_where, names[:_MOST_NAMED]))}{more} changed since. "
        "Run with --changed redo (in Python changed='redo') to redo there what depends on it, or choose another "
        "directory"
    )


def _where(name: str) -> str:
    """A class, function or constant, with the file that it is in."""
    module, _, own = name.partition(":")
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"{own} in {Path(file).name if file else module}"
