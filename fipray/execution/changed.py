"""Results directories that were made by other versions of the user's own code."""

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
    """Open the results directory of a study or search, or make it.

    Args:
        directory: path or address.
        manifest: as for `Store.create_or_open`, with the digests of the user's own code as "code".
        keep: IDs that are valid with the code as it is now.
        changed: what to do where the directory was made by other code: "stop", or "redo", after which results of other
            IDs than those in `keep` no longer count.

    Returns:
        The results directory.

    Raises:
        UsageError: where other code made it and `changed` is "stop", with the names of what changed; for another value
            of `changed`; and as `Store.create_or_open` does.
    """
    if changed not in CHOICES:
        raise UsageError(f"changed={changed!r} is not one of {', '.join(map(repr, CHOICES))}")
    store = Store.create_or_open(directory, manifest)
    # `create_or_open` has refused any other difference: what is left is the code.
    before, now = store.manifest.get("code", {}), manifest["code"]
    if before == now:
        return store
    if changed == "redo":
        return renew(store, manifest, keep)
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    raise UsageError(
        f"{store.address} was made by other code: {', '.join(map(_where, names[:_MOST_NAMED]))}{more} changed since. "
        "Run with --changed redo (changed='redo' in Python) to recompute what depends on that code, or use another "
        "directory"
    )


def _where(name: str) -> str:
    """Class, function or constant, with the file that defines it."""
    module, _, own = name.partition(":")
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"{own} in {Path(file).name if file else module}"
