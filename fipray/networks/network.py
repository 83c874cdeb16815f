"""A module as a pure function of one flat weight vector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fipray.border import checked, described
from fipray.errors import NetworkError
from fipray.networks.arrays import AnyWeights
from fipray.networks.checks import function
from fipray.networks.embedding import OutputGeometry
from fipray.networks.inputs import check_device, check_inputs
from fipray.networks.modules import (
    copied,
    listed,
    matching,
    nothing_left,
    outputs_of,
    parameter_names,
    refuse_shared_memory,
    refuse_what_is_no_network,
    unwrapped,
)
from fipray.networks.origin import Origin
from fipray.networks.stacking import stacks

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_WITH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Slot:
    """Where one parameter lives in the flat vector."""

    name: str
    shape: torch.Size
    start: int

    @property
    def stop(self) -> int:
        return self.start + self.shape.numel()


class Network:
    """`f(w, x)`: a module as a pure function of one flat weight vector `w` [P] and inputs `x` [N, ...].

    The module is copied; the caller's own is never touched. Buffers, such as the statistics of BatchNorm, are frozen
    (layers that keep statistics are put in evaluation mode). Parameters that the module shares between layers appear
    once. Parameters that are not in the vector stay as they were.

    The vector is float32 for weights in half precision (float64 where some are), the master weights of mixed-precision
    training: each parameter takes its part in its own dtype, and outputs are given in the vector's.

    slots: where each parameter of the vector lies in it. moving: those of them that may change (see `only`).
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        """`module` is the network's own from now on, `names` are those of the vector's parameters: see `of`."""
        parameters = dict(module.named_parameters())
        self._module = module
        self._required_grad = {name: parameter.requires_grad for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.requires_grad_(False)  # a gradient is only ever taken with respect to the flat vector
        slots, start = [], 0
        for name in names:
            slots.append(Slot(name, parameters[name].shape, start))
            start = slots[-1].stop
        self.slots = tuple(slots)
        self.moving = self.slots
        self.mask: Tensor | None = None
        self.num_weights = start
        self._sizes = [slot.shape.numel() for slot in slots]
        dtype = torch.float64 if any(parameters[name].dtype == torch.float64 for name in names) else torch.float32
        self.weights = torch.cat([parameters[name].detach().reshape(-1).to(dtype) for name in names])
        self._dtypes = {name: parameters[name].dtype for name in names if parameters[name].dtype != dtype}
        every = {t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}
        self._half = next(iter(every)) if len(every) == 1 and every <= set(_LOW_PRECISION) else None
        self._takes_half_alone = False
        self.origin = Origin()
        self.zeroed: dict[str, str] = {}  # by a parameter's name, what makes a part of it zero in forward
        self.checked: set[tuple[object, ...]] = set()
        self._stacks: dict[tuple[object, ...], bool] = {}  # whether vmap batches it, by the kind of inputs

    @classmethod
    @checked
    def of(cls, module: nn.Module, *, moving: str | Sequence[str] | None = None) -> Network:
        """The network that `module` is, or that it wraps (torch.compile, DataParallel).

        `moving`: names of the parameters that the vector holds, or patterns such as `"fc*.weight"`; by default those
        that require gradients.

        Raises NetworkError for a module without parameters or with all of them frozen, with active dropout, with
        parameters on several devices, without values or complex, for one that is scripted, quantised or cannot be
        copied, and where a name in `moving` fits no parameter.
        """
        module = unwrapped(module)
        active = [
            name for name, part in module.named_modules() if isinstance(part, _DROPOUT) and part.training and part.p
        ]
        if active:
            raise NetworkError(
                f"dropout is active in {listed(active)}, so the module's output changes from pass to pass and it is "
                "no function of its weights: call module.eval() first"
            )
        refuse_what_is_no_network(module)
        refuse_shared_memory(module)
        given, module = module, copied(module)
        for part in module.modules():
            if isinstance(part, _WITH_STATISTICS):
                part.eval()
        names = parameter_names(module, moving)
        devices = {str(tensor.device) for tensor in (*module.parameters(), *module.buffers())}
        if len(devices) > 1:
            raise NetworkError(f"a network lies on one device; this module's tensors are on {', '.join(devices)}")
        network = cls(module, names)
        network.origin = Origin((name for name, _ in module.named_parameters()), given.parameters())
        return network

    @checked
    def only(self, moving: str | Sequence[str]) -> Network:
        """The same network, of whose weights only those may change whose parameters have these names, or fit these
        patterns, such as `"head.*"`; the vector is the same. Paths of it leave all other weights as they are.

        Raises NetworkError where a name fits no parameter in the vector, or none that may change.
        """
        slots = {slot.name: slot for slot in self.moving}
        aliases = self.aliases()
        names = matching(moving, [(alias, own) for alias, own in aliases if own in slots])
        held = copy.copy(self)
        held.moving = tuple(slot for slot in self.moving if slot.name in names)
        held.mask = None
        if len(held.moving) < len(self.slots):
            held.mask = torch.zeros_like(self.weights)
            for slot in held.moving:
                held.mask[slot.start : slot.stop] = 1
        return held

    @property
    def is_mixed(self) -> bool:
        """Whether some weights are of another dtype than the vector."""
        return bool(self._dtypes)

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype of the module's own parameter."""
        return self._dtypes.get(name, self.weights.dtype)

    @property
    def num_moving(self) -> int:
        """The number of weights that may change, at most P."""
        return sum(slot.shape.numel() for slot in self.moving)

    def moved(self, weights: Tensor, displacement: Tensor) -> Tensor:
        """`weights + displacement` [P], but bit for bit the same `weights` where they may not change."""
        return self.held(weights + displacement, weights)

    def held(self, weights: Tensor, before: Tensor) -> Tensor:
        """`weights` [P] where they may change, and those of `before` [P] everywhere else."""
        return weights if self.mask is None else torch.where(self.mask != 0, weights, before)

    @checked
    def at(self, weights: AnyWeights) -> Network:
        """The same network with `weights` [P] as its own: a path from it begins there."""
        self.named(weights)  # refuses weights of another network
        moved = copy.copy(self)
        moved.weights = weights.detach()
        return moved

    def __call__(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [N, C] (or [N, ...]) at `weights` [P]; differentiable in both arguments."""
        return self.evaluated(self.named(weights), inputs)

    def evaluated(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Outputs [N, ...] with these `tensors` in place of the module's own parameters and buffers of their names,
        each of them in its own dtype.
        """
        own = {**tensors, **{name: tensors[name].to(kind) for name, kind in self._dtypes.items() if name in tensors}}
        dtype = next(iter(tensors.values())).dtype
        return self._called(lambda given: functional_call(self._module, own, (given,)), inputs, dtype)

    def outputs_at(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Outputs [N, ...] of a copy that `module_at` made, as the network gives them."""
        return self._called(module, inputs, self.weights.dtype)

    def _called(self, module: Callable[[Tensor], object], inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """The outputs, in the vector's dtype, of a module like this network's own. One in half precision throughout may
        take inputs of that precision alone; others are rounded to it, as arrays of numpy cannot have all of them.
        """
        if self._half is None or inputs.dtype not in (torch.float32, torch.float64):
            returned = module(inputs)
        elif self._takes_half_alone:
            returned = module(inputs.to(self._half))
        else:
            try:
                returned = module(inputs)
            except RuntimeError:
                returned = module(inputs.to(self._half))
                self._takes_half_alone = True
        outputs = outputs_of(returned, self._module)
        return outputs.to(dtype) if outputs.is_floating_point() else outputs

    def stacked(self, weights: Tensor, inputs: Tensor, *, chunk: int | None = None) -> Tensor:
        """Outputs [M, N, ...] at every row of `weights` [M, P] on the same inputs, computed together; differentiable in
        both arguments. `chunk` rows at a time, or all: activations take as many times one network's memory.

        It saves calls, not arithmetic: little where matrix products take most of the time (benchmarks/engine/stacking.py).
        Networks that `torch.vmap` cannot batch are computed one after the other, with the same values and gradients.
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
        with nothing_left(self._module):
            return vmap(self, in_dims=(0, None), chunk_size=chunk)(weights, inputs)

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        """Views of `weights` [P] by the parameters' names, in the parameters' shapes."""
        given: object = weights
        if not isinstance(given, Tensor) or weights.shape != (self.num_weights,):
            raise NetworkError(f"this network has {self.num_weights} weights; {described(weights)} was given")
        parts = weights.split(self._sizes)
        return {slot.name: part.view(slot.shape) for slot, part in zip(self.slots, parts, strict=True)}

    @checked
    def module_at(self, weights: AnyWeights) -> nn.Module:
        """A copy of the module that carries `weights` [P], each parameter in its own dtype; parameters require
        gradients where those of the module that was given do.
        """
        module = copied(self._module)
        values = self.named(weights.detach())
        for name, parameter in module.named_parameters():
            if name in values:
                parameter.data.copy_(values[name])
            parameter.requires_grad_(self._required_grad[name])
        return module

    def aliases(self) -> list[tuple[str, str]]:
        """All names of the parameters in the vector, more than one where layers share them, each with the slot's."""
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        inside = {slot.name for slot in self.slots}
        pairs = [(name, names[id(p)]) for name, p in self._module.named_parameters(remove_duplicate=False)]
        return [(name, own) for name, own in pairs if own in inside]

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that it is made of, by name, itself among them; they hold no weights of a point."""
        return self._module.named_modules()

    @checked
    def to(self, device: torch.device | str) -> Network:
        """The same network on another device."""
        check_device(device)
        there = copy.copy(self)
        there._module = copied(self._module).to(device)
        there.weights = self.weights.to(device)
        there.mask = None if self.mask is None else self.mask.to(device)
        return there

    @torch.no_grad()
    def outputs(self, weights: Tensor, inputs: Tensor, *, chunk: int = 1024) -> Tensor:
        """Outputs [N, ...] without gradients, `chunk` inputs at a time."""
        return torch.cat([self(weights, part) for part in inputs.split(chunk)])

    def check(self, inputs: Tensor, geometry: OutputGeometry | None = None) -> None:
        """Raise unless the module is a function of its weights on `inputs` [N, ...], as `fipray.networks.checks.function`
        says, with outputs that mean something in the output geometry, where one is given.

        Raises DataError for inputs that are not finite or that the module refuses, NetworkError for the rest.
        """
        check_inputs(inputs, self.weights)
        function.check(self, inputs, geometry)
