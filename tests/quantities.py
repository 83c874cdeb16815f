"""Functions that specs of kept quantities name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Call = Callable[[Tensor], Tensor]


def energy_rate(network: Call, inputs: Tensor) -> Tensor:
    """Rate of change of `|x|^2 / 2` along the vector field `network` [N, 1]."""
    return (inputs * network(inputs)).sum(1, keepdim=True)


def divergence(network: Call, inputs: Tensor) -> Tensor:
    """Of a vector field [N], by gradients within."""
    with torch.enable_grad():
        moving = inputs.detach().requires_grad_(True)
        outputs = network(moving)
        rows = [
            torch.autograd.grad(outputs[:, k].sum(), moving, create_graph=True)[0][:, k] for k in range(inputs.shape[1])
        ]
    return torch.stack(rows).sum(0)


def rotations(inputs: Tensor, outputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The generator of rotations of the plane, of vectors to vectors."""
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).to(inputs)
    return [(inputs @ turn, outputs @ turn)]


def shifts(inputs: Tensor, outputs: Tensor) -> list[tuple[Tensor, None]]:
    """Translations along every axis, which leave the outputs alone."""
    return [(axis.expand_as(inputs), None) for axis in torch.eye(inputs.shape[1]).to(inputs)]


def constant(network: Call, inputs: Tensor) -> Tensor:
    return torch.ones(len(inputs), 1, dtype=inputs.dtype)


def too_few(network: Call, inputs: Tensor) -> Tensor:
    return network(inputs)[:1]


def no_pairs(inputs: Tensor, outputs: Tensor) -> Tensor:
    return inputs


def size(module: nn.Module) -> float:
    """The sum of all weights' squares, as a measure."""
    return float(sum(parameter.square().sum() for parameter in module.parameters()))


def no_number(module: nn.Module) -> str:
    return "large"


def total_output(network: Call, inputs: Tensor) -> Tensor:
    """The sum of all outputs [N, 1], which must vanish."""
    return network(inputs).sum(1, keepdim=True)
