"""Black-box attacks: random noise, random search, and inputs transferred from other classifiers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec
from fipray.robustness.attacks.attack import Attack, BuiltInAttack
from fipray.robustness.attacks.search import Search
from fipray.robustness.margin import Classifier, check_counts


class BlackBoxAttack(BuiltInAttack):
    """An attack that proposes inputs and keeps the worst for each example; it takes no gradient of its target.

    Subclasses implement the proposals alone.
    """

    @abstractmethod
    def _candidates(self, search: Search) -> Iterator[Tensor]:
        """Propose allowed inputs [N, ...], one tensor a query; each is judged before the next is made.

        They are made for all N examples whether or not some are left out, so that draws do not depend on
        `until_fooled`.
        """

    @final
    @torch.no_grad()
    def _adversarial(self, search: Search) -> Tensor:
        for candidates in self._candidates(search):
            search.judge(candidates)
        return search.worst


@spec("random_noise")
@checked
@dataclass(frozen=True)
class RandomNoise(BlackBoxAttack):
    """Random changes of full size epsilon, the worst of several for each example: a lower bound of any attack's effect.

    In linf every coordinate moves by epsilon, up or down. Costs num_draws forward passes for the examples still
    attacked.

    Args:
        num_draws: changes that are tried for each example, at least 1.

    Raises:
        UsageError: for num_draws below 1.
    """

    num_draws: int = 10

    def __post_init__(self) -> None:
        check_counts(num_draws=self.num_draws)

    @property
    def name(self) -> str:
        return f"noise-{self.num_draws}"

    def _candidates(self, search: Search) -> Iterator[Tensor]:
        for _ in range(self.num_draws):
            yield search.threat_model.project(search.inputs + _noise(search), search.inputs)


@spec("random_search")
@checked
@dataclass(frozen=True)
class RandomSearch(BlackBoxAttack):
    """Random changes of a fraction of the coordinates, kept where they lower the margin (Andriushchenko et al. 2020).

    Scattered coordinates take the place of that paper's squares. The fraction falls from 1/2 to 1/64 over the queries.
    Costs num_queries forward passes for the examples still attacked.

    Args:
        num_queries: changes that are tried for each example, at least 1.

    Raises:
        UsageError: for num_queries below 1.
    """

    num_queries: int = 1000

    def __post_init__(self) -> None:
        check_counts(num_queries=self.num_queries)

    @property
    def name(self) -> str:
        return f"random-search-{self.num_queries}"

    def _candidates(self, search: Search) -> Iterator[Tensor]:
        inputs, generator = search.inputs, search.generator
        for query in range(self.num_queries):
            fraction = 2.0 ** -(1 + 5 * query / self.num_queries)
            # In float32 for inputs of any dtype, so that a seed picks the same coordinates.
            draws = torch.rand(inputs.shape, generator=generator, dtype=torch.float32, device=generator.device)
            # From the clean inputs, not from the worst so far, so that no coordinate moves further than epsilon.
            moved = inputs + _noise(search)
            candidates = torch.where((draws < fraction).to(inputs.device), moved, search.worst)
            yield search.threat_model.project(candidates, inputs)


@spec("from_surrogates")
@checked
@dataclass(frozen=True)
class TransferAttack(BlackBoxAttack):
    """Inputs that an attack makes on surrogate classifiers; for each example the one that is worst for the target.

    The inputs depend on no output of the target; only the choice among them does. Costs the attack on every surrogate,
    and one forward pass of the target for each.

    Args:
        surrogates: classifiers by name, at least one: the base network, for what is called transfer from it, or
            networks trained independently.
        attack: attack on each of them.

    Raises:
        UsageError: for no surrogates.
    """

    surrogates: Mapping[str, Classifier]
    attack: Attack

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise UsageError("there are no surrogates: give one classifier or more, by name")

    @property
    def name(self) -> str:
        return f"{self.attack.name}-from-{'+'.join(self.surrogates)}"

    def _candidates(self, search: Search) -> Iterator[Tensor]:
        for surrogate in self.surrogates.values():
            # Pushed as far as it goes: an input that barely fools a surrogate seldom fools the target.
            yield self.attack.perturb(surrogate, search.inputs, search.labels, search.threat_model, search.generator)


def _noise(search: Search) -> Tensor:
    """Draw changes [N, ...] of length epsilon."""
    inputs, generator = search.inputs, search.generator
    # Drawn on the generator's device and then moved, so that a seed means the same on every device.
    draws = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device=generator.device)
    return search.threat_model.epsilon * search.threat_model.steepest(draws).to(inputs.device)
