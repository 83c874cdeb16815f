"""Networks for several tasks: a head for each, or one head that grows."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn

from fipray.errors import DataError, NetworkError


class MultiHead(nn.Module):
    """A network with a head for each task, that is told which task an input belongs to.

    Inputs [N, 1 + D]: the number of the task, 0 for the first, and the input, flattened. Of the outputs [N, T K] that
    `module` gives for inputs [N, *input_shape] it returns those of the input's own task, [N, K]. The number is rounded:
    a perturbation of less than a half does not lead to another task.
    """

    def __init__(self, module: nn.Module, num_tasks: int, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        if num_tasks < 1:
            raise NetworkError(f"there is a head for each of one or more tasks; num_tasks={num_tasks} was given")
        self.module, self.num_tasks, self.input_shape = module, num_tasks, tuple(input_shape)

    def forward(self, inputs: Tensor) -> Tensor:
        size = math.prod(self.input_shape)
        if inputs.ndim != 2 or inputs.shape[1] != 1 + size:
            raise DataError(
                f"inputs of a network with several heads are [N, {1 + size}], the task's number before {size} numbers; "
                f"a tensor of shape {tuple(inputs.shape)} was given"
            )
        task = inputs[:, 0].detach().round().long().clamp(0, self.num_tasks - 1)
        outputs = cast(Tensor, self.module(inputs[:, 1:].reshape(-1, *self.input_shape)))
        if outputs.shape[1] % self.num_tasks:
            raise NetworkError(f"{outputs.shape[1]} outputs cannot be shared out evenly among {self.num_tasks} tasks")
        heads = outputs.view(len(outputs), self.num_tasks, -1)
        return heads.gather(1, task[:, None, None].expand(-1, 1, heads.shape[2])).squeeze(1)


def for_task(inputs: Tensor, task: int) -> Tensor:
    """Inputs [N, ...] as `MultiHead` takes them, [N, 1 + D]: all of the task with this number, 0 for the first."""
    flat = inputs.flatten(1)
    return torch.cat([flat.new_full((len(flat), 1), task), flat], 1)


def grown(module: nn.Module, num_outputs: int) -> nn.Module:
    """A copy whose last linear layer has `num_outputs` outputs, at least as many as it has: the first are as they were,
    and what is new says no to everything (weights of zero, a bias of -20), so that a classifier's probabilities stay to
    within 2e-9 for each new class, as long as one of its logits is above 0.

    Raises NetworkError where there is no linear layer at the end, or it would become smaller.
    """
    module = copy.deepcopy(module)
    linear = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise NetworkError(f"{type(module).__name__} has no linear layer, so no head that could grow")
    name, last = linear[-1]
    more = num_outputs - last.out_features
    if more < 0:
        raise NetworkError(
            f"the head {name!r} has {last.out_features} outputs, more than {num_outputs}: it can only grow"
        )
    head = nn.Linear(last.in_features, num_outputs, device=last.weight.device, dtype=last.weight.dtype)
    with_bias = dict(last.named_parameters()).get("bias") is not None
    with torch.no_grad():
        head.weight.zero_()
        head.weight[: last.out_features] = last.weight
        head.bias.fill_(-20.0)
        head.bias[: last.out_features] = last.bias if with_bias else 0.0
    head.train(last.training)
    if not name:
        return head
    module.set_submodule(name, head)
    return module
