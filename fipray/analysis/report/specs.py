"""Section on specs and versions: identity of each study, its parameters, and the specs of its paths."""

import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from fipray.analysis.report.content import Column, Limits, Section, Table
from fipray.analysis.report.side import Side
from fipray.analysis.report.wording import count

_MOST_COLUMNS = 24
_LIBRARIES = ("numpy", "pandas", "pyarrow")


def specs(sides: Sequence[Side], limits: Limits) -> Section:
    """Identity and parameters of each study, and what its paths share and differ in.

    Args:
        sides: results directories.
        limits: upper limits.

    Returns:
        The section; it is never empty.
    """
    tables = [_identity(side, named=len(sides) > 1) for side in sides]
    sentences = ["IDs hash the spec, the data and the base weights: directories with equal IDs hold equal studies."]
    for side in sides:
        if len(side.results.paths):
            own, sentence = _specs(side, named=len(sides) > 1)
            tables += own
            sentences.append(sentence)
    sentences.append(f"This page was made with {', '.join(f'{name} {number}' for name, number in _versions())}.")
    return Section("specs", "Specs and versions", sentences, (), tables)


def _versions() -> Iterator[tuple[str, str]]:
    from fipray import __version__  # of the tree in use, which may differ from the installed distribution

    yield "fipray", __version__
    yield from ((name, version(name)) for name in _LIBRARIES)


def _identity(side: Side, *, named: bool) -> Table:
    manifest = side.results.manifest
    facts = {"directory": side.results.address}
    facts |= {
        key: _text(manifest[key])
        for key in ("study", "study_id", "base_id", "data_id", "schema_version")
        if key in manifest
    }
    if "parameters_of_module" in manifest:
        sizes = [int(np.prod(shape, dtype=np.int64)) for _, shape in manifest["parameters_of_module"]]
        facts["weights of the network"] = f"{sum(sizes):,} in {count(len(sizes), 'tensor')}"
    facts |= {f"objective {name}": mode for name, mode in manifest.get("objectives", {}).items()}
    facts |= {f"parameter {name}": _text(value) for name, value in manifest["parameters"].items()}
    facts |= {f"code {name}": digest for name, digest in manifest.get("code", {}).items()}
    title = f"Study of {side.label}" if named else "Study"
    return Table("study", title, [Column("entry", list(facts)), Column("value", list(facts.values()))])


def _specs(side: Side, *, named: bool) -> tuple[list[Table], str]:
    """Tables of the fields that paths share and of those that differ, and a sentence on their numbers."""
    paths, where = side.results.paths, f" of {side.label}" if named else ""
    flat = pd.DataFrame([dict(_flat(json.loads(text))) for text in paths["spec_json"]], index=paths.index)
    missing = {column for column in flat if flat[column].isna().any()}
    shared = [name for name in flat if name not in missing and flat[name].nunique() == 1 and name != "name"]
    differing = [name for name in flat if name not in shared and name != "name"]
    tables = []
    if shared:
        title = f"Fields of the spec that all paths{where} share"
        values = [flat[name].iloc[0] for name in shared]
        tables.append(Table("shared-fields", title, [Column("field", shared), Column("value", values)]))
    if differing:
        columns = [Column("name", paths["name"].tolist())]
        for name in differing[:_MOST_COLUMNS]:
            columns.append(Column(name, [None if pd.isna(value) else value for value in flat[name]], label=name))
        tables.append(Table("differing-fields", f"Fields of the spec in which paths{where} differ", columns))
    cut = f", {_MOST_COLUMNS} of them shown" if len(differing) > _MOST_COLUMNS else ""
    return tables, f"Paths{where} share {count(len(shared), 'field')} and differ in {len(differing)}{cut}."


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Fields of a spec by their dotted names; lists stay JSON."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(inner)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
