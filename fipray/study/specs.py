"""Specs of one path and one ensemble."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fipray.border import checked
from fipray.errors import UsageError
from fipray.paths import Augmentation, KroneckerMemory, Objective, Settings, check_heeded, milestones
from fipray.registry import ADDED, spec
from fipray.robustness.ensembles import check_mixing, fractions_of
from fipray.study.canonical import to_json
from fipray.study.evaluation import BASE, Mixing, paths_of, variant_of

# Names become parts of file names and addresses; "@" and spaces are left for names of variants and rounds.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class _Required:
    name: str
    objective: Objective


@spec("path")
@checked
@dataclass(frozen=True)
class PathSpec(Settings, _Required):  # in this order of the bases `name` and `objective` are the first arguments
    """Spec of one path: everything that determines it except the base network and the data, which the study holds.

    The fields of `Settings` are keyword arguments too. A path's ID hashes all fields, also `max_seconds`, which limits
    the time of all attempts together.

    Args:
        name: name of the path and of the network at its end: 1 to 64 letters, digits, ".", "_" or "-".
        objective: secondary objective to improve.
        start: network at which the path begins and whose function it keeps: "base", the name of an earlier path of the
            study, for its end, or a pruned variant on an earlier path, such as "sparse@0.9".
        others: names of earlier paths of the study, whose ends are the other networks of the objective. The path is
            traced after them.
        anchors: names among `Data.sets` whose inputs are the anchors; empty uses `Data.anchors`.
        augmentations: transformations of the anchors, such as shifted copies of images. The augmented inputs are not
            stored but computed again by every attempt.
        memory: Kronecker-factored memory for `KroneckerPenalty`, added to those that the start network has already.
        held_out: names among `Data.sets` whose inputs are the held-out inputs; empty uses `Data.held_out`.
        moving: names of the parameters that may change on this path, or patterns such as "head.*"; empty moves all
            parameters that the study moves.
        networks: names among `Study.networks` that come first among the other networks of the objective.

    Raises:
        UsageError: for a name of another form, a setting out of range or without effect on this objective, and a value
            that cannot be written as JSON.
    """

    start: str = BASE
    others: tuple[str, ...] = ()
    anchors: tuple[str, ...] = ()
    augmentations: tuple[Augmentation, ...] = ()
    memory: KroneckerMemory | None = None
    held_out: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name, "path")
        try:
            super().__post_init__()
            check_heeded(self.stepper, self.objective)
        except UsageError as error:
            raise UsageError(f"path {self.name!r}: {error}") from None
        to_json(self)  # raises for values that JSON cannot hold, before any work begins

    @property
    def produces(self) -> str:
        """Name of the network at the end of the path."""
        return self.name

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the paths that must be complete before this one."""
        return paths_of((self.start, *self.others))

    @property
    def label(self) -> str:
        """Short description in logs and messages."""
        return f"path {self.name}"

    @property
    def first_step(self) -> int:
        """Step at which the first attempt begins."""
        return 0

    @property
    def last_step(self) -> int:
        """Step at which the path ends unless an event, a limit or an error ends it earlier."""
        return self.num_steps

    @property
    def releases(self) -> tuple[str, ...]:
        """Names of results whose saved solver states are no longer needed once this path is committed."""
        return (self.name,)


@spec("ensemble")
@checked
@dataclass(frozen=True)
class EnsembleSpec:
    """Spec of an ensemble: networks that are evaluated together.

    With weights w_m and temperatures T_m, the outputs are `log sum_m w_m softmax(z_m / T_m)`, see
    `fip.robustness.Ensemble`. A robust network and the base network make a mixture whose weights and temperatures
    `fip.robustness.mixture` chooses.

    Args:
        name: name of the ensemble, of the same form as a path's.
        members: names of paths, whose ends are the members, or "base".
        rounds: number of rounds in which the members are traced together; 0 traces them independently. In each round
            every member takes an equal part of its steps, and the other networks of its objective are the other
            members as of the end of the previous round; in the first round there are none. Cooperating members have no
            `others` of their own and differ in more than their names, such as in their seeds.
        weights: weight of each member in the average, finite and above 0; divided by their sum, so (1, 3) and
            (0.25, 0.75) are one ensemble. Empty for equal weights.
        temperatures: number by which the logits of each member are divided before the softmax, finite and above 0.
            Empty for 1. Only where class probabilities are averaged: in studies with an evaluation or of `FisherRao`.

    Raises:
        UsageError: for a name of another form, no members, a negative number of rounds, and weights or temperatures of
            another number than the members or out of range.
    """

    name: str
    members: tuple[str, ...]
    rounds: int = 0
    weights: tuple[float, ...] = field(default=(), metadata=ADDED)
    temperatures: tuple[float, ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:
        check_name(self.name, "ensemble")
        if not self.rounds >= 0:
            raise UsageError(f"ensemble {self.name!r}: rounds must be 0 or more, got {self.rounds}")
        if not self.members:
            raise UsageError(f"ensemble {self.name!r} has no members: name paths of the study, or {BASE!r}")
        try:
            check_mixing(len(self.members), self.weights, self.temperatures)
        except UsageError as error:
            raise UsageError(f"ensemble {self.name!r}: {error}") from None

    @property
    def mixing(self) -> Mixing | None:
        """Weights that sum to 1, and temperatures, as IDs and the manifest hold them; None for a plain average."""
        # A plain average has one ID, however it is written.
        weights = () if len({*self.weights}) == 1 else fractions_of(self.weights)
        temperatures = () if {*self.temperatures} == {1.0} else tuple(map(float, self.temperatures))
        return Mixing(weights, temperatures) if weights or temperatures else None


def variants_of(path: PathSpec) -> tuple[str, ...]:
    """Names of the pruned networks that a path saves on its way, at the sparsities that its objective lists.

    Args:
        path: spec of the path.

    Returns:
        Names such as "sparse@0.9", in the order of the path; the network at its end is not among them.
    """
    return tuple(variant_of(path.name, sparsity) for fraction, sparsity in milestones(path.objective) if fraction < 1)


def check_name(name: str, kind: str) -> None:
    """Check that a name can be used in a results directory.

    Args:
        name: name of a study, path or ensemble.
        kind: what it names, for the message.

    Raises:
        UsageError: unless it has 1 to 64 letters, digits, ".", "_" or "-" and begins with a letter or a digit.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name for a {kind}: use 1 to 64 letters, digits, '.', '_' or '-', the first of "
            "them a letter or a digit"
        )
