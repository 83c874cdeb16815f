"""Evaluation of the base network, path ends and ensembles, as data: its settings and the jobs that it expands into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from fipray.border import checked
from fipray.border.kinds import Seed
from fipray.errors import UsageError
from fipray.registry import ADDED, spec
from fipray.robustness import FGSM, PGD, Attack, TargetedPGD, ThreatModel

BASE, VARIANT = "base", "variant"


def variant_of(path: str, sparsity: float) -> str:
    """Name of the network that a pruning path passes through at a sparsity; `@` sets it apart from every path name.

    Args:
        path: name of the path.
        sparsity: fraction of zero weights, 0..1.

    Returns:
        The name, such as "sparse@0.9".
    """
    return f"{path}@{sparsity:g}"


def path_of(name: str) -> str:
    """Name of the path that a network is on.

    Args:
        name: name of a variant, such as "sparse@0.9", or of any other network.

    Returns:
        The path of a variant; any other name unchanged.
    """
    return name.partition("@")[0]


def per_example_of(name: str, attack: str, first_example: int) -> str:
    """Name of the per-example results of one attack job; it contains spaces, so it differs from every path name.

    Args:
        name: the attacked network or ensemble.
        attack: name of the attack.
        first_example: index of the first test input that was attacked.

    Returns:
        The name, as specs give it in `dependencies` and `produces`.
    """
    return f"{attack} on {name} from example {first_example}"


@spec("evaluation")
@checked
@dataclass(frozen=True)
class Evaluation:
    """Evaluation of the base network, path ends and ensembles: attacks, threat model and number of test inputs.

    Args:
        threat_model: norm and epsilon of the attacks.
        attacks: attacks to run, at least one, with distinct names. The transfer matrix uses the last of them.
        num_examples: test inputs to attack, from the first on, at least 1; all of them where there are fewer.
        seed: seed of everything that attacks draw at random.
        chunk_size: test inputs of one attack job, at least 1. With more than this many examples, the attacks on each
            network are split into jobs of one attack on one chunk, which run on several workers.
        check_masking: look for signs of masked gradients on the first 100 examples
            (`fip.robustness.masking_warnings`). Costs about as much as the default attacks on 500 examples.

    Raises:
        UsageError: for no attacks, two of one name, or a count below 1.
    """

    threat_model: ThreatModel
    attacks: tuple[Attack, ...] = (FGSM(), TargetedPGD(), PGD())
    num_examples: int = 1000
    seed: Seed = 0
    chunk_size: int = 500
    check_masking: bool = False

    def __post_init__(self) -> None:
        if not self.attacks:
            raise UsageError("an evaluation needs at least one attack, such as PGD()")
        names = [attack.name for attack in self.attacks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UsageError(
                f"attacks of an evaluation need distinct names; more than one is named {', '.join(sorted(twice))}"
            )
        if not self.num_examples >= 1:
            raise UsageError(f"an evaluation needs at least one example; num_examples={self.num_examples} was given")
        if not self.chunk_size >= 1:
            raise UsageError(f"a chunk holds at least one example; chunk_size={self.chunk_size} was given")

    @property
    def is_split(self) -> bool:
        """True where attacks are jobs of their own, and the evaluation of a network only joins their results."""
        return self.num_examples > self.chunk_size


@spec("mixing")
@dataclass(frozen=True)
class Mixing:
    """Weights and temperatures of an ensemble's members; see `fipray.robustness.Ensemble`.

    Args:
        weights: weight of each member, which sum to 1; empty for equal weights.
        temperatures: temperature of each member; empty for 1.
    """

    weights: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()


@spec("attack")
@dataclass(frozen=True)
class AttackSpec:
    """One attack on one network or ensemble, on a chunk of the test inputs.

    Args:
        name: the network or ensemble.
        members: names of its networks; of a single network, its own.
        threat_model: norm and epsilon.
        attack: the attack.
        first_example: index of the first test input, from 0.
        num_examples: number of test inputs.
        seed: seed of the evaluation.
        mixing: weights and temperatures of the members; None for equal weights and no temperatures.
    """

    name: str
    members: tuple[str, ...]
    threat_model: ThreatModel
    attack: Attack
    first_example: int
    num_examples: int
    seed: int
    mixing: Mixing | None = field(default=None, metadata=ADDED)
    # Evaluations take no steps and save no solver state. Class variables are no fields, so they are in no ID.
    first_step: ClassVar[int] = 0
    last_step: ClassVar[None] = None
    releases: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """Short description in logs and messages."""
        last = self.first_example + self.num_examples - 1
        return f"{self.attack.name} on {self.name}, examples {self.first_example} to {last}"

    @property
    def produces(self) -> str:
        """Name of the per-example results."""
        return per_example_of(self.name, self.attack.name, self.first_example)

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the paths whose weights the members are."""
        return paths_of(self.members)


@spec("robustness")
@dataclass(frozen=True)
class RobustnessSpec:
    """Clean and robust accuracy and measures of one network or ensemble.

    Args:
        name: the network or ensemble.
        network_kind: "base", "path", "variant" or "ensemble".
        members: names of its networks; of a single network, its own.
        evaluation: attacks and number of examples.
        mixing: weights and temperatures of the members; None for equal weights and no temperatures.
    """

    name: str
    network_kind: str
    members: tuple[str, ...]
    evaluation: Evaluation
    mixing: Mixing | None = field(default=None, metadata=ADDED)
    produces: ClassVar[None] = None
    first_step: ClassVar[int] = 0
    last_step: ClassVar[None] = None
    releases: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """Short description in logs and messages."""
        return f"attacks on {self.name}"

    @property
    def pieces(self) -> tuple[AttackSpec, ...]:
        """One spec for each attack and chunk of examples, attack by attack."""
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
                self.mixing,
            )
            for attack in evaluation.attacks  # outermost, because `joined` appends the chunks of an attack in order
            for first in range(0, total, size)
        )

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the members' paths and, where the evaluation is split, of the results of all attack jobs."""
        # Unsplit attacks are run by this job itself: nothing produces their names, and it would wait forever.
        per_example = (piece.produces for piece in self.pieces) if self.evaluation.is_split else ()
        return (*paths_of(self.members), *per_example)


@spec("transfer")
@dataclass(frozen=True)
class TransferSpec:
    """Transfer matrix: accuracy of every network on adversarial inputs made for every other network.

    Args:
        networks: name and members of each network or ensemble.
        evaluation: threat model, examples and attacks, of which the last is used.
        name: of the job, always "transfer".
        mixings: name of each ensemble with weights or temperatures, and these.
    """

    networks: tuple[tuple[str, tuple[str, ...]], ...]
    evaluation: Evaluation
    name: str = "transfer"
    mixings: tuple[tuple[str, Mixing], ...] = field(default=(), metadata=ADDED)
    produces: ClassVar[None] = None
    first_step: ClassVar[int] = 0
    last_step: ClassVar[None] = None
    releases: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """Short description in logs and messages."""
        return "transfer of attacks"

    @property
    def dependencies(self) -> tuple[str, ...]:
        """Names of the paths of all members."""
        # Not on the attack jobs: transfer uses the adversarial inputs themselves, and these are not stored.
        return paths_of(member for _, members in self.networks for member in members)


def evaluation_jobs(
    evaluation: Evaluation,
    networks: tuple[tuple[str, str, tuple[str, ...]], ...],
    mixings: Mapping[str, Mixing] = MappingProxyType({}),
) -> list[AttackSpec | RobustnessSpec | TransferSpec]:
    """Expand an evaluation into jobs.

    Args:
        evaluation: attacks and number of examples.
        networks: name, kind and members of each network or ensemble.
        mixings: weights and temperatures of the ensembles that have any, by name.

    Returns:
        Specs in an order in which they can run: attacks of a network (where these are jobs of their own), then its
        robustness; last the transfer matrix. Variants are left out of the matrix, because variants of one path resemble
        each other.
    """
    specs: list[AttackSpec | RobustnessSpec | TransferSpec] = []
    for name, kind, members in networks:
        robustness = RobustnessSpec(name, kind, members, evaluation, mixings.get(name))
        specs += [*(robustness.pieces if evaluation.is_split else ()), robustness]
    tried = tuple((name, members) for name, kind, members in networks if kind != VARIANT)
    return [*specs, TransferSpec(tried, evaluation, mixings=tuple(mixings.items()))]


def paths_of(names: Iterable[str]) -> tuple[str, ...]:
    """Names of the paths that produce networks.

    Args:
        names: networks; the base network and duplicates are dropped, variants stand for their paths.

    Returns:
        Names of paths, each once, in order.
    """
    return tuple(dict.fromkeys(path_of(name) for name in names if name != BASE))
