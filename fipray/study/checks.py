"""Checks that the parts of a study refer to what exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fipray.errors import UsageError
from fipray.geometry import Kept, OutputGeometry
from fipray.paths import OUTPUTS, FunctionalDistanceAbove, MeasureAbove, MeasureBelow, tasks_of
from fipray.study.data import Data
from fipray.study.described import average_of
from fipray.study.evaluation import BASE
from fipray.study.measures import ACCURACY
from fipray.study.specs import EnsembleSpec, PathSpec, variants_of


def check_names(paths: Sequence[PathSpec], ensembles: Sequence[EnsembleSpec]) -> None:
    """Check that names are unique, and that paths refer to earlier paths and ensembles to paths.

    Args:
        paths: paths of a study, in order.
        ensembles: ensembles of the study.

    Raises:
        UsageError: for a name that is used twice or refers to nothing.
    """
    # Pruned variants of a path can be starts, but neither other networks nor members.
    seen, earlier, starts = {BASE}, set[str](), {BASE}
    for path in paths:
        _check_new(path.name, seen)
        _check_known(path.name, (path.start,), starts)
        _check_known(path.name, path.others, earlier)
        seen.add(path.name)
        earlier.add(path.name)
        starts |= {path.name, *variants_of(path)}
    members = set(seen)
    for ensemble in ensembles:
        _check_new(ensemble.name, seen)
        _check_known(ensemble.name, ensemble.members, members)
        seen.add(ensemble.name)


def check_temperatures(ensembles: Sequence[EnsembleSpec], geometry: OutputGeometry, is_evaluated: bool) -> None:
    """Check that temperatures have an effect: that the study's ensembles average probabilities.

    Args:
        ensembles: ensembles of the study.
        geometry: output geometry of the study.
        is_evaluated: whether the study has an evaluation.

    Raises:
        UsageError: for temperatures where outputs are averaged as they are.
    """
    for ensemble in ensembles:
        if ensemble.temperatures and average_of(geometry, is_evaluated) != "probabilities":
            raise UsageError(
                f"ensemble {ensemble.name!r} has temperatures={ensemble.temperatures}, but ensembles of this study "
                "average outputs as they are: leave them out, or give the study an evaluation or geometry=FisherRao()"
            )


def check_data_of(path: PathSpec, data: Data) -> None:
    """Check that the data has the sets and tasks that a path names.

    Args:
        path: spec of a path.
        data: data of the study.

    Raises:
        UsageError: for an unknown set or task.
    """
    for field, kind, named, known in (
        ("anchors", "set", path.anchors, data.sets),
        ("held_out", "set", path.held_out, data.sets),
        ("memory", "set", path.memory.sets if path.memory else (), data.sets),
        ("objective", "task", tasks_of(path.objective), data.tasks),
    ):
        if unknown := [name for name in named if name not in known]:
            raise UsageError(
                f"path {path.name!r}: {field} names the unknown {kind} {_listed(unknown)}; the data has the {kind}s "
                f"{_listed(known) or '(none)'}"
            )


def check_networks_of(path: PathSpec, networks: Collection[str]) -> None:
    """Check that the study has the other networks that a path names.

    Args:
        path: spec of a path.
        networks: names of the study's other networks.

    Raises:
        UsageError: for an unknown network.
    """
    if unknown := [name for name in path.networks if name not in networks]:
        raise UsageError(
            f"path {path.name!r}: networks names the unknown {_listed(unknown)}; the study has the other networks "
            f"{_listed(networks) or '(none)'}"
        )


def check_events_of(path: PathSpec, keeps: Mapping[str, Kept], measures: Mapping[str, Any]) -> None:
    """Check that the study has the measures and kept quantities that a path's events name.

    Args:
        path: spec of a path.
        keeps: kept quantities of the study, by name; none means the outputs.
        measures: measures of the study, by name.

    Raises:
        UsageError: for an unknown measure or kept quantity.
    """
    known: tuple[str, ...]
    for event in path.events:
        match event:
            case MeasureAbove() | MeasureBelow():
                kind, wanted, known = "measure", event.measure, (ACCURACY, *measures)
            case FunctionalDistanceAbove() if event.of:
                # Without kept quantities a problem keeps the outputs under this name.
                kind, wanted, known = "kept quantity", event.of, tuple(keeps) or (OUTPUTS,)
            case _:
                continue
        if wanted not in known:
            raise UsageError(
                f"path {path.name!r}: an event refers to the unknown {kind} {wanted!r}; valid names are: "
                f"{_listed(known)}"
            )


def check_keeps(keeps: Mapping[str, Kept], data: Data) -> None:
    """Check that the data has the sets on which quantities are kept.

    Args:
        keeps: kept quantities by name.
        data: data of the study.

    Raises:
        UsageError: for an unknown set.
    """
    for name, kept in keeps.items():
        if unknown := [each for each in (kept.on, kept.held_out) if each and each not in data.sets]:
            raise UsageError(
                f"the kept quantity {name!r} refers to the unknown set {unknown[0]!r}; the data has the sets: "
                f"{_listed(data.sets) or 'none'}"
            )


def _check_new(name: str, seen: set[str]) -> None:
    if name in seen:
        raise UsageError(
            f"the name {name!r} is used twice: give each path and ensemble its own name, other than {BASE!r}"
        )


def _check_known(name: str, used: tuple[str, ...], known: set[str]) -> None:
    if unknown := [other for other in used if other not in known]:
        raise UsageError(
            f"{name!r} refers to {_listed(unknown)}; it may refer to: {', '.join(sorted(known)) or 'nothing yet'}"
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))
