"""Other input gradients."""

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
    """Turn the input gradients away from those of the start and of the other networks, so that what fools one fools not
    all.

    `value = mean_{n, o} cos(dm(w, x_n)/dx, dm(o, x_n)/dx)` over the inputs and over o = start and others, in -1..1,
    where `m(w, x) = f_y - logsumexp_{k != y} f_k` is the margin of the class y that the start predicts. The margin's
    gradient is parallel to the cross-entropy's, and does not vanish in rounding where the network is sure (the
    coherence of Kariyappa & Qureshi 2019, without labels).

    noise: standard deviation, in units of the inputs, of normal noise on every other input of a batch; the networks are
        then to differ beside the data too, where an attack's steps lead.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise UsageError(f"noise is at least 0 and finite; {self.noise} was given")

    def value(self, problem: Problem, weights: Tensor, batch: Batch) -> Tensor:
        inputs = batch.inputs
        if self.noise > 0:
            inputs = inputs.clone()
            inputs[::2] += self.noise * batch.normal(*inputs.shape)[::2]
        own = input_gradients(problem.network, weights, inputs, batch.labels)
        cosines = [
            cosine_similarity(own, input_gradients(problem.network, other, inputs, batch.labels), dim=1).mean()
            for other in (problem.start, *problem.others)
        ]
        return torch.stack(cosines).mean()


def input_gradients(network: Network, weights: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Gradients [N, input size] of the margins by the inputs; differentiable where `weights` require gradients."""
    inputs = inputs.detach().requires_grad_(True)
    with torch.enable_grad(), twice_differentiable():
        outputs = class_logits(network(weights, inputs))
        if outputs.ndim != 2:
            raise UsageError(f"margins are of one classification an input, [N, C]; these are {tuple(outputs.shape)}")
        chosen = outputs.gather(1, labels[:, None])
        rest = outputs.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
        margins = chosen.sum() - rest.sum()
        return torch.autograd.grad(margins, inputs, create_graph=weights.requires_grad)[0].flatten(1)
