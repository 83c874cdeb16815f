"""Gradient diversity: input gradients that differ from those of other networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fipray.border import checked
from fipray.errors import UsageError
from fipray.geometry import class_logits
from fipray.networks import Network, twice_differentiable
from fipray.paths.batch import Batch
from fipray.paths.problem import Problem
from fipray.registry import spec


@spec("gradient_diversity")
@checked
@dataclass(frozen=True)
class GradientDiversity:
    """Lower the cosine of the input gradients with those of the base network and of the other networks.

    `value = mean_{n, o} cos(dm(w, x_n)/dx, dm(o, x_n)/dx)` over the inputs and over o = base network and others, in
    -1..1, where `m(w, x) = f_y - logsumexp_{k != y} f_k` is the margin of the class y that the base network predicts.
    The margin's gradient is parallel to that of the cross-entropy, and does not vanish in rounding where the network is
    sure. The aim is that an adversarial input for one network does not transfer to the others; a low cosine alone is no
    robustness.

    Cost: one double backward pass on N inputs, and one input gradient per other network.

    Needs: classes, one classification per input; other networks are optional; no labels.

    Source: the coherence of Kariyappa & Qureshi 2019, arXiv 1901.09981, without labels.

    Args:
        noise: standard deviation, in units of the inputs and at least 0, of normal noise on every other input of a
            batch, so that gradients also differ off the data, where an attack's steps lead.

    Raises:
        UsageError: for noise out of range.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise UsageError(f"noise must be at least 0 and finite; {self.noise} was given")

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        inputs = batch.inputs
        if self.noise > 0:
            inputs = inputs.clone()
            # every other input stays on the data, where the network is used
            inputs[::2] += self.noise * batch.normal(*inputs.shape)[::2]
        own = input_gradients(problem.network, weights, inputs, batch.labels)
        # the other weights require no gradients, so theirs take no double backward pass
        cosines = [
            cosine_similarity(own, input_gradients(problem.network, other, inputs, batch.labels), dim=1).mean()
            for other in (problem.start, *problem.others)
        ]
        return torch.stack(cosines).mean()


def input_gradients(network: Network, weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Gradients of classification margins with respect to the inputs.

    Costs one pass and a backward pass; differentiating the result costs another backward pass.

    Args:
        network: a classifier.
        weights: [P]; the result is differentiable by them where they require gradients.
        inputs: [N, ...].
        labels: [N], classes whose margins are taken.

    Returns:
        Gradients [N, input size].

    Raises:
        UsageError: for outputs that are not one classification per input.
    """
    inputs = inputs.detach().requires_grad_(True)
    with torch.enable_grad(), twice_differentiable():
        outputs = class_logits(network(weights, inputs))
        if outputs.ndim != 2:
            raise UsageError(
                f"margins need one classification per input, outputs [N, C]; these are {tuple(outputs.shape)}"
            )
        chosen = outputs.gather(1, labels[:, None])
        # exp(-inf) is exactly 0, whatever the scale of the other logits, so the class itself drops out
        rest = outputs.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
        margins = chosen.sum() - rest.sum()  # inputs do not interact, so one backward pass gives every gradient
        return torch.autograd.grad(margins, inputs, create_graph=weights.requires_grad)[0].flatten(1)
