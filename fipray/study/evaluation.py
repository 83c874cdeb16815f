"""How base, path ends and ensembles are judged, as data: the evaluation of a study, and the work that it makes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import UsageError
from fipray.registry import spec
from fipray.robustness import FGSM, PGD, Attack, TargetedPGD, ThreatModel

BASE, VARIANT = "base", "variant"


def variant_of(path: str, sparsity: float) -> str:
    """What a network that a path passes through at a sparsity is called; no name of a path is like it."""
    return f"{path}@{sparsity:g}"


def path_of(name: str) -> str:
    """The path that a variant lies on; of any other network its own name."""
    return name.partition("@")[0]


def per_example_of(name: str, attack: str, first_example: int) -> str:
    """What the verdicts of an attack on a network are called; no name of a path is like it."""
    return f"{attack} on {name} from example {first_example}"


@spec("evaluation")
@checked
@dataclass(frozen=True)
class Evaluation:
    """How base, path ends and ensembles are judged: under which attacks, on the first `num_examples` test inputs or as
    many as there are.

    The transfer matrix is made with the last of the attacks.

    chunk_size: where there are more examples, workers share out the attacks on one network: a piece of work is then one
        attack on so many examples.
    check_masking: looks for signs of masked gradients on the first 100 examples (`fip.robustness.masking_warnings`), which costs
        about as much as the default attacks on 500.
    """

    threat_model: ThreatModel
    attacks: tuple[Attack, ...] = (FGSM(), TargetedPGD(), PGD())
    num_examples: int = 1000
    seed: Seed = 0
    chunk_size: int = 500
    check_masking: bool = False

    def __post_init__(self) -> None:
        if not self.attacks:
            raise UsageError("an evaluation needs an attack, such as PGD()")
        names = [attack.name for attack in self.attacks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"an evaluation has each attack once; there are two named {', '.join(sorted(twice))}")
        if not self.num_examples >= 1:
            raise UsageError(f"an evaluation needs an example; num_examples={self.num_examples} was given")
        if not self.chunk_size >= 1:
            raise UsageError(f"a chunk of examples holds at least 1; chunk_size={self.chunk_size} was given")

    @property
    def is_split(self) -> bool:
        """Whether attacks on a network are work of their own, apart from the judgement that joins their verdicts."""
        return self.num_examples > self.chunk_size


@spec("attack")
@dataclass(frozen=True)
class AttackSpec:
    """One attack on one network or ensemble, on `num_examples` test inputs from `first_example`, 0 or more."""

    name: str
    members: tuple[str, ...]
    threat_model: ThreatModel
    attack: Attack
    first_example: int
    num_examples: int
    seed: int

    @property
    def produces(self) -> str:
        return per_example_of(self.name, self.attack.name, self.first_example)

    @property
    def dependencies(self) -> tuple[str, ...]:
        return made_networks(self.members)


@spec("robustness")
@dataclass(frozen=True)
class RobustnessSpec:
    """One network or ensemble under the attacks of an evaluation, and without one."""

    name: str
    network_kind: str
    members: tuple[str, ...]
    evaluation: Evaluation
    produces: ClassVar[None] = None

    @property
    def pieces(self) -> tuple[AttackSpec, ...]:
        """Every attack on every chunk of examples, attack by attack."""
        evaluation = self.evaluation
        total, size = evaluation.num_examples, evaluation.chunk_size
        return tuple(
            AttackSpec(
                self.name,
                self.members,
                evaluation.threat_model,
                attack,
                first,
                min(size, total - first),
                evaluation.seed,
            )
            for attack in evaluation.attacks
            for first in range(0, total, size)
        )

    @property
    def dependencies(self) -> tuple[str, ...]:
        per_example = (piece.produces for piece in self.pieces) if self.evaluation.is_split else ()
        return (*made_networks(self.members), *per_example)


@spec("transfer")
@dataclass(frozen=True)
class TransferSpec:
    """Inputs made on each network, tried on every other: names of networks and their members."""

    networks: tuple[tuple[str, tuple[str, ...]], ...]
    evaluation: Evaluation
    name: str = "transfer"
    produces: ClassVar[None] = None

    @property
    def dependencies(self) -> tuple[str, ...]:
        return made_networks(member for _, members in self.networks for member in members)


def evaluation_jobs(
    evaluation: Evaluation, networks: tuple[tuple[str, str, tuple[str, ...]], ...]
) -> list[AttackSpec | RobustnessSpec | TransferSpec]:
    """The work of judging networks, each given by name, kind and members, in an order in which it can be done. Attacks
    are not transferred to and from variants, which resemble each other.
    """
    specs: list[AttackSpec | RobustnessSpec | TransferSpec] = []
    for name, kind, members in networks:
        robustness = RobustnessSpec(name, kind, members, evaluation)
        specs += [*(robustness.pieces if evaluation.is_split else ()), robustness]
    tried = tuple((name, members) for name, kind, members in networks if kind != VARIANT)
    return [*specs, TransferSpec(tried, evaluation)]


def made_networks(names: Iterable[str]) -> tuple[str, ...]:
    """The paths of the study that make the networks of these names, each once."""
    return tuple(dict.fromkeys(path_of(name) for name in names if name != BASE))
