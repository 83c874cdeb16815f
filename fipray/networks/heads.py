"""Modules for several tasks: one head per task, or a head that grows."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fipray.border import checked
from fipray.errors import DataError, NetworkError
from fipray.networks.arrays import Inputs
from fipray.networks.modules import outputs_of


@checked
class MultiHead(nn.Module):
    """Module with one head per task, for inputs that carry the number of their task (task-incremental learning).

    Inputs are [N, 1 + D]: the number of the task, 0 for the first, and the flattened input (see `for_task`). Of the
    outputs [N, T K] that `module` returns for inputs [N, *input_shape], those of the input's own task are returned,
    [N, K]. The number is rounded, so that a perturbation of less than 0.5 does not select another task.

    Args:
        module: the module, with T K outputs.
        num_tasks: number of tasks T, at least 1.
        input_shape: shape of one input of `module`.
        own_norms: true to give each task its own scale and shift in every BatchNorm (of a copy of the module), which
            with frozen statistics is as good as its own statistics. They start as those of the task before.

    Raises:
        NetworkError: for less than one task, or with `own_norms` if no BatchNorm has a scale and a shift.
    """

    def __init__(
        self, module: nn.Module, num_tasks: int, input_shape: tuple[int, ...], *, own_norms: bool = False
    ) -> None:
        super().__init__()
        if num_tasks < 1:
            raise NetworkError(f"num_tasks must be at least 1; {num_tasks} was given")
        self.module = _with_own_norms(module, num_tasks) if own_norms else module
        self.num_tasks, self.input_shape = num_tasks, tuple(input_shape)

    def forward(self, inputs: Tensor) -> Tensor:
        """Evaluate the head of each input's task.

        Args:
            inputs: [N, 1 + D], the number of the task before D numbers.

        Returns:
            Outputs [N, K].

        Raises:
            DataError: for inputs of another shape.
            NetworkError: for outputs of the module that do not divide evenly among the tasks.
        """
        size = math.prod(self.input_shape)
        if inputs.ndim != 2 or inputs.shape[1] != 1 + size:
            raise DataError(
                f"inputs of a MultiHead must be [N, {1 + size}], the task's number before {size} numbers; "
                f"a tensor of shape {tuple(inputs.shape)} was given"
            )
        task = inputs[:, 0].detach().round().long().clamp(0, self.num_tasks - 1)
        with _selected(self.module, task):
            outputs = outputs_of(self.module(inputs[:, 1:].reshape(-1, *self.input_shape)), self.module)
        if outputs.shape[1] % self.num_tasks:
            raise NetworkError(f"{outputs.shape[1]} outputs cannot be divided evenly among {self.num_tasks} tasks")
        heads = outputs.view(len(outputs), self.num_tasks, -1)
        return heads.gather(1, task[:, None, None].expand(-1, 1, heads.shape[2])).squeeze(1)


class _OwnNorm(nn.Module):
    """BatchNorm with a scale and a shift per task, stored as differences from the task before."""

    def __init__(self, norm: _BatchNorm, num_tasks: int) -> None:
        super().__init__()
        self.task: Tensor | None = None  # [N], set during a forward pass of the MultiHead
        self.weight, self.bias = (
            nn.Parameter(torch.cat([first[None], first.new_zeros(num_tasks - 1, len(first))]))
            for first in (norm.weight.detach(), norm.bias.detach())
        )
        # The inner norm keeps the statistics only; its scale and shift are applied here, by task.
        self.norm = copy.copy(norm)
        # A new dictionary: the shallow copy shares the old one with the original.
        self.norm._parameters = {"weight": None, "bias": None}
        self.norm.affine = False

    def forward(self, inputs: Tensor) -> Tensor:
        if self.task is None:
            raise NetworkError("a BatchNorm with a scale per task does not know the task: call the whole MultiHead")
        normalised = self.norm(inputs)
        shape = (*inputs.shape[:2], *[1] * (inputs.ndim - 2))
        # With sums of differences, a later task starts where the task before ended without copying anything.
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
def _selected(module: nn.Module, task: Tensor) -> Iterator[None]:
    """Set the task [N] of each input in the norms, and unset it afterwards."""
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
    """Prepare inputs of one task for `MultiHead`.

    Args:
        inputs: [N, ...] with D numbers each.
        task: number of the task, 0 for the first.

    Returns:
        Inputs [N, 1 + D].

    Raises:
        DataError: if the inputs' dtype cannot represent the task's number.
    """
    flat = inputs.flatten(1)
    numbers = flat.new_full((len(flat), 1), task)
    if not bool((numbers == task).all()):
        raise DataError(
            f"inputs of dtype {inputs.dtype} cannot represent the task's number {task}: give inputs.float()"
        )
    return torch.cat([numbers, flat], 1)


@checked
def grown(module: nn.Module, num_outputs: int) -> nn.Module:
    """Add outputs to the last linear layer of a module (class-incremental learning).

    New outputs have weights of zero and a bias of -20, so that a classifier's probabilities change by less than 2e-9
    for each new class, as long as one of its logits is above 0. The configuration of a module of transformers names the
    new classes LABEL_i.

    Args:
        module: the module; not changed.
        num_outputs: number of outputs, at least as many as there are.

    Returns:
        A copy whose first outputs are as they were.

    Raises:
        NetworkError: if there is no linear layer, or it has more outputs already.
    """
    module = copy.deepcopy(module)
    linear = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise NetworkError(f"{type(module).__name__} has no linear layer, so there is no head to grow")
    name, last = linear[-1]
    more = num_outputs - last.out_features
    if more < 0:
        raise NetworkError(
            f"the head {name!r} has {last.out_features} outputs, more than num_outputs={num_outputs}: it can only grow"
        )
    head = nn.Linear(last.in_features, num_outputs, device=last.weight.device, dtype=last.weight.dtype)
    with_bias = dict(last.named_parameters()).get("bias") is not None
    with torch.no_grad():
        head.weight.zero_()
        head.weight[: last.out_features] = last.weight
        head.bias.fill_(-20.0)  # exp(-20) = 2.1e-9
        head.bias[: last.out_features] = last.bias if with_bias else 0.0
    head.train(last.training)
    if not name:
        return head
    module.set_submodule(name, head)
    for part in module.modules():
        _name_classes(getattr(part, "config", None), last.out_features, num_outputs)
    return module


def _name_classes(config: Any, before: int, now: int) -> None:
    """Name new classes in a configuration of transformers, by which a saved network is made again."""
    if getattr(config, "num_labels", None) == before and isinstance(names := getattr(config, "id2label", None), dict):
        config.id2label = {**names, **{number: f"LABEL_{number}" for number in range(before, now)}}
        config.label2id = {name: number for number, name in config.id2label.items()}
