"""Networks for several tasks: a head for each, or one head that grows."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fipray.border import checked
from fipray.errors import DataError, NetworkError
from fipray.networks.arrays import Inputs


@checked
class MultiHead(nn.Module):
    """A network with a head for each task, that is told which task an input belongs to.

    Inputs [N, 1 + D]: the number of the task, 0 for the first, and the input, flattened. Of the outputs [N, T K] that
    `module` gives for inputs [N, *input_shape] it returns those of the input's own task, [N, K]. The number is rounded:
    a perturbation of less than a half does not lead to another task.

    own_norms: whether each task has its own scale and shift in every BatchNorm (of a copy of the module), which with
        frozen statistics is the same as its own statistics. A task begins with those of the task before it.

    Raises NetworkError with `own_norms` where no BatchNorm has a scale and a shift.
    """

    def __init__(
        self, module: nn.Module, num_tasks: int, input_shape: tuple[int, ...], *, own_norms: bool = False
    ) -> None:
        super().__init__()
        if num_tasks < 1:
            raise NetworkError(f"there is a head for each of one or more tasks; num_tasks={num_tasks} was given")
        self.module = _with_own_norms(module, num_tasks) if own_norms else module
        self.num_tasks, self.input_shape = num_tasks, tuple(input_shape)

    def forward(self, inputs: Tensor) -> Tensor:
        size = math.prod(self.input_shape)
        if inputs.ndim != 2 or inputs.shape[1] != 1 + size:
            raise DataError(
                f"inputs of a network with several heads are [N, {1 + size}], the task's number before {size} numbers; "
                f"a tensor of shape {tuple(inputs.shape)} was given"
            )
        task = inputs[:, 0].detach().round().long().clamp(0, self.num_tasks - 1)
        with _told(self.module, task):
            outputs = cast(Tensor, self.module(inputs[:, 1:].reshape(-1, *self.input_shape)))
        if outputs.shape[1] % self.num_tasks:
            raise NetworkError(f"{outputs.shape[1]} outputs cannot be shared out evenly among {self.num_tasks} tasks")
        heads = outputs.view(len(outputs), self.num_tasks, -1)
        return heads.gather(1, task[:, None, None].expand(-1, 1, heads.shape[2])).squeeze(1)


class _OwnNorm(nn.Module):
    """A BatchNorm with a scale and a shift for each task: the sums of what the tasks up to it have added."""

    def __init__(self, norm: _BatchNorm, num_tasks: int) -> None:
        super().__init__()
        self.task: Tensor | None = None  # [N], while the network is asked
        self.weight, self.bias = (
            nn.Parameter(torch.cat([first[None], first.new_zeros(num_tasks - 1, len(first))]))
            for first in (norm.weight.detach(), norm.bias.detach())
        )
        self.norm = copy.copy(norm)
        self.norm._parameters = {"weight": None, "bias": None}
        self.norm.affine = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.task is None:
            raise NetworkError("a scale for each task needs to be told the task: ask the whole MultiHead")
        normalised = self.norm(inputs)
        shape = (*inputs.shape[:2], *[1] * (inputs.ndim - 2))
        scale, shift = (rows.cumsum(0)[self.task].view(shape) for rows in (self.weight, self.bias))
        return normalised * scale + shift


def _with_own_norms(module: nn.Module, num_tasks: int) -> nn.Module:
    module = copy.deepcopy(module)
    norms = [(name, part) for name, part in module.named_modules() if isinstance(part, _BatchNorm) and part.affine]
    if not norms:
        raise NetworkError(f"{type(module).__name__} has no BatchNorm with a scale and a shift that tasks could own")
    for name, norm in norms:
        if not name:
            return _OwnNorm(norm, num_tasks)
        module.set_submodule(name, _OwnNorm(norm, num_tasks))
    return module


@contextmanager
def _told(module: nn.Module, task: Tensor) -> Iterator[None]:
    """The norms of tasks know the task [N] of each input for a while."""
    norms = [part for part in module.modules() if isinstance(part, _OwnNorm)]
    try:
        for norm in norms:
            norm.task = task
        yield
    finally:
        for norm in norms:
            norm.task = None


@checked
def for_task(inputs: Inputs, task: int) -> Tensor:
    """Inputs [N, ...] as `MultiHead` takes them, [N, 1 + D]: all of the task with this number, 0 for the first."""
    flat = inputs.flatten(1)
    numbers = flat.new_full((len(flat), 1), task)
    if not bool((numbers == task).all()):
        raise DataError(f"inputs of dtype {inputs.dtype} cannot hold the task's number {task}: give inputs.float()")
    return torch.cat([numbers, flat], 1)


@checked
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
