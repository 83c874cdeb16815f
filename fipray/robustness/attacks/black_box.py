"""Attacks that never see the gradients of what they attack: noise, search, inputs made on other classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fipray.border import checked
from fipray.errors import UsageError
from fipray.registry import spec
from fipray.robustness.attacks.gradient import Attack
from fipray.robustness.attacks.worst import Worst
from fipray.robustness.margin import Classifier, check_counts, check_examples, checked_outputs
from fipray.robustness.threat_models import ThreatModel


@spec("random_noise")
@checked
@dataclass(frozen=True)
class RandomNoise:
    """Changes of full size epsilon in random directions, the worst of `num_draws` for each example: what robustness
    against an attack has to be more than. In linf every coordinate moves by epsilon, up or down.

    Costs num_draws forward passes for the examples still standing.
    """

    num_draws: int = 10

    def __post_init__(self) -> None:
        check_counts(num_draws=self.num_draws)

    @property
    def name(self) -> str:
        return f"noise-{self.num_draws}"

    @checked
    @torch.no_grad()
    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        check_examples(inputs, labels, threat_model)
        worst = Worst(inputs, labels)
        for _ in range(self.num_draws):
            made = threat_model.project(inputs + _noise(inputs, threat_model, generator), inputs)
            _try(classifier, made, labels, worst, until_fooled)
        return worst.inputs


@spec("random_search")
@checked
@dataclass(frozen=True)
class RandomSearch:
    """Random changes of a share of the coordinates, kept where they lower the margin (Andriushchenko et al. 2020, with
    scattered coordinates in place of squares); the share falls from a half to 1/64 over the queries.

    Costs num_queries forward passes for the examples still standing.
    """

    num_queries: int = 1000

    def __post_init__(self) -> None:
        check_counts(num_queries=self.num_queries)

    @property
    def name(self) -> str:
        return f"random-search-{self.num_queries}"

    @checked
    @torch.no_grad()
    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        check_examples(inputs, labels, threat_model)
        worst = Worst(inputs, labels)
        for query in range(self.num_queries):
            fraction = 2.0 ** -(1 + 5 * query / self.num_queries)
            draws = torch.rand(inputs.shape, generator=generator, dtype=torch.float32, device=generator.device)
            moved = inputs + _noise(inputs, threat_model, generator)
            made = torch.where((draws < fraction).to(inputs.device), moved, worst.inputs)
            _try(classifier, threat_model.project(made, inputs), labels, worst, until_fooled)
        return worst.inputs


@spec("from_surrogates")
@checked
@dataclass(frozen=True)
class TransferAttack:
    """The inputs that an attack makes on other classifiers, which need not be known to who made the target: of each
    surrogate's, the one that is worst for the target.

    `surrogates` by name: the base, for what is called transfer from it, or networks trained independently. What they
    are pushed to depends on no output of the target; only which one is kept does.
    """

    surrogates: Mapping[str, Classifier]
    attack: Attack

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise UsageError("there are no surrogates: give one classifier or more, by name")

    @property
    def name(self) -> str:
        return f"{self.attack.name}-from-{'+'.join(self.surrogates)}"

    @checked
    @torch.no_grad()
    def perturb(
        self,
        classifier: Classifier,
        inputs: Tensor,
        labels: Tensor,
        threat_model: ThreatModel,
        generator: torch.Generator,
        *,
        until_fooled: bool = False,
    ) -> Tensor:
        check_examples(inputs, labels, threat_model)
        worst = Worst(inputs, labels)
        for surrogate in self.surrogates.values():
            made = self.attack.perturb(surrogate, inputs, labels, threat_model, generator)
            _try(classifier, made, labels, worst, until_fooled)
        return worst.inputs


def _noise(inputs: Tensor, threat_model: ThreatModel, generator: torch.Generator) -> Tensor:
    """Changes [N, ...] of length epsilon, drawn where the generator lives so that a seed means the same everywhere."""
    draws = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device=generator.device)
    return threat_model.epsilon * threat_model.steepest(draws).to(inputs.device)


def _try(classifier: Classifier, made: Tensor, labels: Tensor, worst: Worst, until_fooled: bool) -> None:
    """Keeps what is worse; the draws are the same whether or not fooled examples are left out."""
    standing = worst.left(until_fooled)
    if len(standing):
        worst.keep(standing, made[standing], checked_outputs(classifier, made[standing], labels[standing]))
