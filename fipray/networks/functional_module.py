"""A module as a pure function of a flat weight vector: evaluation, without the checks that are built on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fipray.errors import NetworkError
from fipray.networks.compute import Compute, Room, in_passes, is_out_of_memory, undivided
from fipray.networks.flat_weights import FlatWeights
from fipray.networks.frozen import Frozen
from fipray.networks.modules import nothing_left, outputs_of
from fipray.networks.origin import Origin
from fipray.networks.stacking import stacks

T = TypeVar("T")
_LOW_PRECISION = (torch.float16, torch.bfloat16)


class FunctionalModule(FlatWeights, ABC):
    """Evaluation of a module at any flat weight vector; the abstract base of `Network`.

    `Network` runs the checks in `fipray.networks.checks`, and the checks evaluate the network. They are written against
    this class, so that the two do not import each other.

    Attributes:
        origin: the parameters of the module that this one was copied from.
        frozen: the parameters outside of the vector that are in that module's memory.
        zeroed: names of functions that zero some weights of a parameter in the forward pass, by the parameter's name;
            filled by the checks.
        checked: kinds of inputs and output geometries for which the checks have passed.
        compute: precision and size of the passes.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        """Take over a module.

        Args:
            module: the module, not copied: its parameters stop requiring gradients.
            names: names of the parameters in the vector, in order.
        """
        super().__init__(module, names)
        every = {t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}
        self._half = next(iter(every)) if len(every) == 1 and every <= set(_LOW_PRECISION) else None
        self._takes_half_alone = False
        named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        self._has_ties = len({id(tensor) for _, tensor in named}) < len(named)
        self.origin = Origin()
        self.frozen = Frozen()
        self.within: Callable[[], AbstractContextManager[None]] = nullcontext  # in which the forward runs
        # Shallow copies (`at`, `only`, `to`) share these on purpose. What they hold depends on the module's code and on
        # what their keys say, hardly on the weights, so that a copy need not repeat checks and trials.
        self.zeroed: dict[str, str] = {}
        self.checked: set[tuple[object, ...]] = set()
        self._stacks: dict[tuple[object, ...], bool] = {}  # whether vmap can batch it, by shape and dtype of inputs
        self._room = Room()
        self.compute = Compute()

    @property
    def micro_batch(self) -> int | None:
        """Largest number of inputs in one pass: that of `compute`, or less where memory has run out; None for all."""
        sizes = [size for size in (self.compute.micro_batch, self._room.largest) if size is not None]
        return min(sizes, default=None)

    def fitting(self, act: Callable[[], T], num_inputs: int) -> T:
        """Call a function that passes inputs through the network; where memory runs out, again with less at a time.

        The smaller micro-batch holds for all later passes of this network and its copies in this process.

        Args:
            act: function without side effects.
            num_inputs: number of inputs that it passes through the network, at most.

        Returns:
            What the function returns.

        Raises:
            Exception: that of the function, when memory runs out even for one input at a time.
        """
        # From the present micro-batch on, which a pass of this size has already.
        return self._room.fitting(act, min(num_inputs, self.micro_batch or num_inputs))

    def __call__(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Evaluate the network; differentiable in both arguments.

        Args:
            weights: [P].
            inputs: [N, ...].

        Returns:
            Outputs [N, C] (or [N, ...]) in the vector's dtype.
        """
        return self.evaluated(self.named(weights), inputs)

    def evaluated(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Evaluate the network with given parameters and buffers; differentiable in all of them.

        Args:
            tensors: replacements for the module's own parameters and buffers, by name. Parameters are cast to their own
                dtype; what is not named stays as it is in the module.
            inputs: [N, ...].

        Returns:
            Outputs [N, C] (or [N, ...]) in the dtype of the first of `tensors`.
        """
        self.frozen.verify()
        # The casts are part of the graph, so gradients arrive in the vector's dtype.
        own = {**tensors, **{name: tensors[name].to(kind) for name, kind in self._dtypes.items() if name in tensors}}
        dtype = next(iter(tensors.values())).dtype

        def substituted(given: Tensor) -> object:
            # With ties, the other names of a parameter that layers share are replaced too. Looking for them searches
            # the whole module in every pass.
            return functional_call(self._module, own, (given,), tie_weights=self._has_ties)

        def passed(some: Tensor) -> Tensor:
            return self._called(substituted, some, dtype)

        return in_passes(passed, inputs, self.micro_batch)

    def outputs_at(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Evaluate a copy of the module as the network itself is evaluated.

        Args:
            module: a copy made by `module_at`.
            inputs: [N, ...].

        Returns:
            Outputs [N, C] (or [N, ...]) in the vector's dtype.
        """
        return self._called(module, inputs, self.weights.dtype)

    def _called(self, module: Callable[[Tensor], object], inputs: Tensor, dtype: torch.dtype) -> Tensor:
        with self.within(), self.compute.passing(inputs.device.type):
            returned = self._returned(module, inputs)
        outputs = outputs_of(returned, self._module)
        return outputs.to(dtype) if outputs.is_floating_point() else outputs

    def _returned(self, module: Callable[[Tensor], object], inputs: Tensor) -> object:
        # A module that is in half precision throughout may take inputs of that precision only. Others are rounded to it
        # here, because data comes as numpy arrays, and numpy has no bfloat16.
        inputs = self.compute.arranged(inputs)
        if self._half is None or inputs.dtype not in (torch.float32, torch.float64):
            return module(inputs)
        if self._takes_half_alone:
            return module(inputs.to(self._half))
        try:
            return module(inputs)
        except RuntimeError as error:  # torch has no exception of its own for dtypes that differ
            if is_out_of_memory(error):
                raise
            returned = module(inputs.to(self._half))
            self._takes_half_alone = True
            return returned

    def stacked(self, weights: Tensor, inputs: Tensor, *, chunk: int | None = None) -> Tensor:
        """Evaluate the network at several weights on the same inputs; differentiable in both arguments.

        The evaluations are batched with `torch.vmap`. This saves calls, not arithmetic, so it gains little where matrix
        products take most of the time (benchmarks/engine/stacking.py). Networks that `torch.vmap` cannot batch are
        evaluated one after the other, with the same values and gradients.

        Args:
            weights: [M, P].
            inputs: [N, ...].
            chunk: rows of `weights` to evaluate at a time; None for all. Memory for activations grows with it.

        Returns:
            Outputs [M, N, ...].

        Raises:
            NetworkError: if `weights` is not [M, P] with M at least 1.
        """
        if weights.ndim != 2 or weights.shape[1] != self.num_weights or len(weights) == 0:
            raise NetworkError(
                f"a stack of this network's weights is [M, {self.num_weights}], M at least 1; a tensor of shape "
                f"{tuple(weights.shape)} was given"
            )
        kind = (inputs.shape[1:], inputs.dtype, inputs.device)
        if kind not in self._stacks:
            with nothing_left(self._module):
                self._stacks[kind] = stacks(self, self.weights, inputs)
        if not self._stacks[kind]:
            return torch.stack([self(one, inputs) for one in weights])

        def passed(some: Tensor) -> Tensor:
            with undivided():  # vmap has no passes within
                return vmap(self, in_dims=(0, None), chunk_size=chunk)(weights, some)

        with nothing_left(self._module):
            return in_passes(passed, inputs, self.micro_batch, dim=1)

    @torch.no_grad()
    def outputs(self, weights: Tensor, inputs: Tensor, *, chunk: int = 1024) -> Tensor:
        """Evaluate the network without gradients, a chunk of inputs at a time; fewer where memory runs out.

        Args:
            weights: [P].
            inputs: [N, ...].
            chunk: number of inputs to evaluate at a time.

        Returns:
            Outputs [N, C] (or [N, ...]).
        """
        found = [self.fitting(partial(self, weights, part), len(part)) for part in inputs.split(chunk)]
        return torch.cat(found)

    @abstractmethod
    def module_at(self, weights: Tensor, *, share_frozen: bool = False) -> nn.Module:
        """Copy the module with other weights.

        Args:
            weights: [P].
            share_frozen: whether parameters outside of the vector stay in the network's memory.

        Returns:
            A new module, each parameter in its own dtype.
        """
