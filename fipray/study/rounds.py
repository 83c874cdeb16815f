"""Cooperating members: paths of one ensemble that are traced together, in rounds.

In each round every member takes its part of the steps against a frozen snapshot of the others: their weights at the end
of the previous round. In the first round, where all members are still at their starts, there are no snapshots. The
rounds of a member form one path, each resumed where the previous one paused; only the snapshots that its objective sees
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fipray.errors import UsageError
from fipray.registry import spec
from fipray.study.canonical import to_json
from fipray.study.evaluation import path_of, paths_of
from fipray.study.specs import EnsembleSpec, PathSpec


def round_end(name: str, number: int) -> str:
    """Name of the weights at the end of a round; it contains spaces, so it differs from every path name.

    Args:
        name: the member, which is the name of its path.
        number: the round, from 1.

    Returns:
        The name, as specs give it in `dependencies` and `produces`.
    """
    return f"round {number} of {name}"


@spec("round")
@dataclass(frozen=True)
class RoundSpec:
    """One round of the path of a cooperating member.

    Args:
        path: spec of the whole path.
        number: the round, from 1 to `num_rounds`; the last round ends the path.
        num_rounds: rounds of the ensemble.
        members: names of all members of the ensemble, this path's among them.
    """

    path: PathSpec
    number: int
    num_rounds: int
    members: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the path."""
        return self.path.name

    @property
    def label(self) -> str:
        """Short description in logs and messages."""
        return f"path {self.name}, round {self.number} of {self.num_rounds}"

    @property
    def is_last(self) -> bool:
        """True for the round that ends the path."""
        return self.number == self.num_rounds

    @property
    def first_step(self) -> int:
        """Step at which the first attempt begins: the end of the previous round."""
        return self.until(self.number - 1)

    @property
    def last_step(self) -> int:
        """Step at which the round ends unless the path ends earlier."""
        return self.until(self.number)

    @property
    def produces(self) -> str:
        """Name of the weights at the end of this round: in the last round, the name of the path."""
        return self.name if self.is_last else round_end(self.name, self.number)

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the path's start and of the ends of all earlier rounds, of every member.

        The previous round would do as long as the saved solver state is intact. All of them allow a member to repeat
        its earlier rounds should that state be lost.
        """
        ends = (round_end(member, number) for number in range(1, self.number) for member in self.members)
        return (*paths_of((self.path.start,)), *ends)

    @property
    def releases(self) -> tuple[str, ...]:
        """Names of results whose saved solver states are no longer needed once this round is committed.

        Empty before the last round, because the next round resumes from the state of an earlier one.
        """
        return (*self.earlier, self.produces) if self.is_last else ()

    @property
    def earlier(self) -> tuple[str, ...]:
        """Names of the ends of this member's earlier rounds, in order."""
        return tuple(round_end(self.name, number) for number in range(1, self.number))

    def others(self, number: int) -> tuple[str, ...]:
        """Names of the snapshots that the objective sees in a round.

        Args:
            number: the round, from 1.

        Returns:
            Ends of the previous round of all other members; empty in the first round.
        """
        if number == 1:
            return ()
        return tuple(round_end(member, number - 1) for member in self.members if member != self.name)

    def until(self, number: int) -> int:
        """Step at which a round ends.

        Args:
            number: the round, from 1; 0 gives the first step of round 1.

        Returns:
            The step: the steps of the path are divided evenly among the rounds.
        """
        # Multiplied before it is divided, so that the last round ends at `num_steps` exactly, whatever the remainder.
        return self.path.num_steps * number // self.num_rounds


def check(ensembles: Sequence[EnsembleSpec], paths: Sequence[PathSpec]) -> None:
    """Check that the members of ensembles with rounds can be traced together.

    Args:
        ensembles: ensembles of the study; those without rounds are ignored. Their members are known to exist.
        paths: paths of the study, in order.

    Raises:
        UsageError: for a member that is no path, is in two such ensembles, starts at a path that is not traced before
            all members, has `others` of its own, has fewer steps than there are rounds, or equals another member in
            everything but its name.
    """
    by_name, names = {path.name: path for path in paths}, [path.name for path in paths]
    cooperates: dict[str, str] = {}
    for ensemble in ensembles:
        seen: dict[str, str] = {}
        for member in ensemble.members if ensemble.rounds else ():
            who = f"ensemble {ensemble.name!r}: member {member!r}"
            if member not in by_name:
                raise UsageError(
                    f"{who} is not a path, so it cannot be traced in rounds. List only paths here, and evaluate them "
                    f"together with {member!r} in a second ensemble without rounds"
                )
            if member in cooperates:
                raise UsageError(
                    f"{who} is already traced in rounds with ensemble {cooperates[member]!r}; a path can cooperate in "
                    "one ensemble only"
                )
            path, cooperates[member] = by_name[member], ensemble.name
            # The rounds of all members stand where the first of them does; see `expanded`.
            first = min(names.index(other) for other in ensemble.members if other in by_name)
            if path_of(path.start) in names[first:]:
                raise UsageError(
                    f"{who} starts at {path.start!r}, which has to be traced before all cooperating members: list that "
                    "path before them in the study"
                )
            if path.others:
                raise UsageError(
                    f"{who} has others={path.others}, but the others of a cooperating path are the other members: "
                    "leave others empty"
                )
            if ensemble.rounds > path.num_steps:
                raise UsageError(
                    f"{who} has num_steps={path.num_steps}, too few for {ensemble.rounds} rounds of at least one step"
                )
            # Specs that agree in all but the name, start and seed included, give equal paths.
            twin = seen.setdefault(to_json(replace(path, name="any")), member)
            if twin != member:
                raise UsageError(
                    f"{who} is identical to {twin!r} and would trace the same path: give each its own seed"
                )


def expanded(paths: Sequence[PathSpec], ensembles: Sequence[EnsembleSpec]) -> list[PathSpec | RoundSpec]:
    """Expand the paths of a study into jobs: cooperating paths become one spec a round.

    Args:
        paths: paths of the study, in order.
        ensembles: its ensembles; those with rounds say which paths cooperate.

    Returns:
        Specs in an order in which they can be traced: dependencies come first.
    """
    by_name = {path.name: path for path in paths}
    rest = {ensemble.name: ensemble for ensemble in ensembles if ensemble.rounds}
    ensemble_of = {member: ensemble.name for ensemble in rest.values() for member in ensemble.members}
    specs: list[PathSpec | RoundSpec] = []
    for path in paths:
        if path.name not in ensemble_of:
            specs.append(path)
        elif ensemble := rest.pop(ensemble_of[path.name], None):
            # All rounds stand where the first member does, round by round, so that members advance together.
            specs += [
                RoundSpec(by_name[member], number, ensemble.rounds, ensemble.members)
                for number in range(1, ensemble.rounds + 1)
                for member in ensemble.members
            ]
    return specs
