"""Cooperating members: paths that are traced together, in rounds.

In every round each member walks its share of the steps against a frozen snapshot of the others: their weights at the
end of the round before. In the first round, where all are at the base, there are no others. A member's rounds are one
path, each resumed where the one before paused; what its objective looks at is all that changes between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fipray.errors import UsageError
from fipray.registry import spec
from fipray.study.canonical import to_json
from fipray.study.evaluation import made_networks, path_of
from fipray.study.specs import EnsembleSpec, PathSpec


def round_end(name: str, number: int) -> str:
    """What the end of a member's round is called; no name of a path is like it."""
    return f"round {number} of {name}"


@spec("round")
@dataclass(frozen=True)
class RoundSpec:
    """Round `number`, 1..num_rounds, of the path of one of the `members`; the last of them ends the path."""

    path: PathSpec
    number: int
    num_rounds: int
    members: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_last(self) -> bool:
        return self.number == self.num_rounds

    @property
    def produces(self) -> str:
        return self.name if self.is_last else round_end(self.name, self.number)

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Where the path begins, and the ends of all earlier rounds: with them a member can walk its own again, should
        its state be lost.
        """
        ends = (round_end(member, number) for number in range(1, self.number) for member in self.members)
        return (*made_networks((self.path.start,)), *ends)

    @property
    def earlier(self) -> tuple[str, ...]:
        """The ends of this member's earlier rounds, in order."""
        return tuple(round_end(self.name, number) for number in range(1, self.number))

    def others(self, number: int) -> tuple[str, ...]:
        """The snapshots that round `number` of the member looks at."""
        if number == 1:
            return ()
        return tuple(round_end(member, number - 1) for member in self.members if member != self.name)

    def until(self, number: int) -> int:
        """The step at which round `number` ends."""
        return self.path.num_steps * number // self.num_rounds


def check(ensembles: Sequence[EnsembleSpec], paths: Sequence[PathSpec]) -> None:
    """Raises UsageError for cooperating members that cannot be traced together; their names are known already."""
    by_name, names = {path.name: path for path in paths}, [path.name for path in paths]
    cooperates: dict[str, str] = {}
    for ensemble in ensembles:
        seen: dict[str, str] = {}
        for member in ensemble.members if ensemble.rounds else ():
            who = f"ensemble {ensemble.name!r}: member {member!r}"
            if member not in by_name:
                raise UsageError(
                    f"{who} walks no rounds. Name the paths alone, and judge them together with {member!r} in another "
                    "ensemble without rounds"
                )
            if member in cooperates:
                raise UsageError(f"{who} cooperates in {cooperates[member]!r} already; a path cooperates once")
            path, cooperates[member] = by_name[member], ensemble.name
            if path_of(path.start) in names[min(map(names.index, ensemble.members)) :]:
                raise UsageError(
                    f"{who} starts at {path.start!r}; where cooperating paths start is there before the first of them: "
                    "let that path stand before all members in the study"
                )
            if path.others:
                raise UsageError(
                    f"{who} has others={path.others}; what a cooperating path looks at are the other members: leave "
                    "others empty"
                )
            if ensemble.rounds > path.num_steps:
                raise UsageError(
                    f"{who} has num_steps={path.num_steps}, too few for {ensemble.rounds} rounds of a step or more"
                )
            twin = seen.setdefault(to_json(replace(path, name="any")), member)
            if twin != member:
                raise UsageError(f"{who} would walk exactly as {twin!r} does: give each a seed of its own")


def expanded(paths: Sequence[PathSpec], ensembles: Sequence[EnsembleSpec]) -> list[PathSpec | RoundSpec]:
    """The paths, those that cooperate as their rounds, in an order in which they can be traced."""
    by_name = {path.name: path for path in paths}
    rest = {ensemble.name: ensemble for ensemble in ensembles if ensemble.rounds}
    ensemble_of = {member: ensemble.name for ensemble in rest.values() for member in ensemble.members}
    specs: list[PathSpec | RoundSpec] = []
    for path in paths:
        if path.name not in ensemble_of:
            specs.append(path)
        elif ensemble := rest.pop(ensemble_of[path.name], None):
            specs += [
                RoundSpec(by_name[member], number, ensemble.rounds, ensemble.members)
                for number in range(1, ensemble.rounds + 1)
                for member in ensemble.members
            ]
    return specs
