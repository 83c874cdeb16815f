"""A module as a pure function of one flat weight vector."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fipray.errors import DataError, NetworkError
from fipray.geometry.derivatives import transposed
from fipray.geometry.stacking import stacks

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_WITH_STATISTICS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


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
    once. Parameters that do not move stay as they were.
    """

    def __init__(self, module: nn.Module, slots: tuple[Slot, ...]) -> None:
        self._module = module
        self.slots = slots
        self.num_weights = slots[-1].stop
        self._sizes = [slot.shape.numel() for slot in slots]
        parameters = dict(module.named_parameters())
        self.weights = torch.cat([parameters[slot.name].detach().reshape(-1) for slot in slots])
        self._stacks: dict[tuple[object, ...], bool] = {}  # whether vmap batches it, by the kind of inputs

    @classmethod
    def of(cls, module: nn.Module, *, moving: Sequence[str] | None = None) -> Network:
        """The network that `module` is.

        `moving`: names of the parameters that move, or patterns such as `"fc*.weight"`; all of them by default.

        Raises NetworkError for a module without parameters, with active dropout, with parameters of several dtypes or
        devices, or where a name in `moving` fits no parameter.
        """
        if not isinstance(module, nn.Module):
            raise NetworkError(f"a network is made of a torch.nn.Module; this is a {type(module).__name__}")
        active = [
            name for name, part in module.named_modules() if isinstance(part, _DROPOUT) and part.training and part.p
        ]
        if active:
            raise NetworkError(
                f"dropout is active in {', '.join(active)}, so the module's output changes from pass to pass and it is "
                "no function of its weights: call module.eval() first"
            )
        module = copy.deepcopy(module)
        for part in module.modules():
            if isinstance(part, _WITH_STATISTICS):
                part.eval()
        parameters = dict(module.named_parameters())
        if not parameters:
            raise NetworkError(f"{type(module).__name__} has no parameters, so there is no weight space to walk in")
        names = list(parameters)
        if moving is not None:
            patterns = [moving] if isinstance(moving, str) else list(moving)
            unknown = [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]
            if unknown or not patterns:
                raise NetworkError(
                    f"no parameter is named {', '.join(map(repr, unknown)) or '(nothing was given)'}; "
                    f"there are: {', '.join(names)}"
                )
            names = [name for name in names if any(fnmatchcase(name, p) for p in patterns)]
        kinds = {(parameters[name].dtype, parameters[name].device) for name in names}
        if len(kinds) > 1:
            raise NetworkError(
                f"the weights that move must have one dtype and device; there are {sorted(map(str, kinds))}"
            )
        for parameter in parameters.values():
            parameter.requires_grad_(False)  # a gradient is only ever taken with respect to the flat vector
        slots, start = [], 0
        for name in names:
            slots.append(Slot(name, parameters[name].shape, start))
            start = slots[-1].stop
        return cls(module, tuple(slots))

    def at(self, weights: Tensor) -> Network:
        """The same network with `weights` [P] as its own: a path from it begins there."""
        self.named(weights)  # refuses weights of another network
        moved = copy.copy(self)
        moved.weights = weights.detach()
        return moved

    def __call__(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [N, C] (or [N, ...]) at `weights` [P]; differentiable in both arguments."""
        return functional_call(self._module, self.named(weights), (inputs,))

    def stacked(self, weights: Tensor, inputs: Tensor, *, chunk: int | None = None) -> Tensor:
        """Outputs [M, N, ...] at every row of `weights` [M, P] on the same inputs, computed together; differentiable in
        both arguments. `chunk` rows at a time, or all: activations take as many times one network's memory.

        It saves calls, not arithmetic: little where matrix products take most of the time (benchmarks/stacking.py).
        Networks that `torch.vmap` cannot batch are computed one after the other, with the same values and gradients.
        """
        if weights.ndim != 2 or weights.shape[1] != self.num_weights or len(weights) == 0:
            raise NetworkError(
                f"a stack of this network's weights is [M, {self.num_weights}], M at least 1; a tensor of shape "
                f"{tuple(weights.shape)} was given"
            )
        kind = (inputs.shape[1:], inputs.dtype, inputs.device)
        if kind not in self._stacks:
            self._stacks[kind] = stacks(self, self.weights, inputs)
        if not self._stacks[kind]:
            return torch.stack([self(one, inputs) for one in weights])
        return vmap(self, in_dims=(0, None), chunk_size=chunk)(weights, inputs)

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        """Views of `weights` [P] by the parameters' names, in the parameters' shapes."""
        if weights.shape != (self.num_weights,):
            raise NetworkError(
                f"this network has {self.num_weights} weights; a tensor of shape {tuple(weights.shape)} was given"
            )
        parts = weights.split(self._sizes)
        return {slot.name: part.view(slot.shape) for slot, part in zip(self.slots, parts, strict=True)}

    def module_at(self, weights: Tensor) -> nn.Module:
        """A copy of the module that carries `weights` [P]; its parameters require gradients, as a fresh module's do."""
        module = copy.deepcopy(self._module)
        values = self.named(weights.detach())
        for name, parameter in module.named_parameters():
            if name in values:
                parameter.data.copy_(values[name])
            parameter.requires_grad_(True)
        return module

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules that it is made of, by name, itself among them; they hold no weights of a point."""
        return self._module.named_modules()

    def to(self, device: torch.device | str) -> Network:
        """The same network on another device."""
        return Network(copy.deepcopy(self._module).to(device), self.slots).at(self.weights.to(device))

    @torch.no_grad()
    def outputs(self, weights: Tensor, inputs: Tensor, *, chunk: int = 1024) -> Tensor:
        """Outputs [N, ...] without gradients, `chunk` inputs at a time."""
        return torch.cat([self(weights, part) for part in inputs.split(chunk)])

    def without_second_derivative(self, weights: Tensor, inputs: Tensor) -> str | None:
        """The first and innermost part of the module, as "name (Class)", whose outputs autograd cannot differentiate
        twice by `weights` [P]; None where every part can be."""
        found: list[str] = []

        def try_twice(name: str, part: nn.Module, output: object) -> None:
            for one in _tensors(output):
                if found or not one.requires_grad:
                    continue
                try:
                    first, probe = transposed(one, weights)
                    if first.requires_grad:
                        torch.autograd.grad(first, probe, torch.ones_like(first), retain_graph=True)
                except RuntimeError:
                    found.append(f"{name or 'the network'} ({type(part).__name__})")

        weights = weights.detach().requires_grad_(True)
        hooks = [
            part.register_forward_hook(lambda part, _, output, name=name: try_twice(name, part, output))
            for name, part in self.parts()
        ]
        try:
            with torch.enable_grad():
                self(weights, inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return found[0] if found else None

    def check(self, inputs: Tensor) -> None:
        """Raise unless the module is a function on `inputs` [N, ...]: same outputs twice, finite, one row an input.

        Raises DataError for inputs that are not finite or that the module refuses, NetworkError for the rest.
        """
        if inputs.ndim == 0 or len(inputs) == 0:
            raise DataError("there are no inputs: at least one is needed")
        if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
            bad = int((~torch.isfinite(inputs)).flatten(1).any(1).sum())
            raise DataError(f"{bad} of {len(inputs)} inputs hold NaN or infinity: remove or repair them")
        few = inputs[:64]
        with torch.no_grad():
            try:
                first: object = self(self.weights, few)
                second = self(self.weights, few)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise DataError(
                    f"{type(self._module).__name__} does not take inputs of shape {tuple(few.shape)} and dtype "
                    f"{few.dtype}: {error}"
                ) from error
        if isinstance(first, (tuple, list, Mapping)):
            raise NetworkError(
                f"{type(self._module).__name__} gives a {type(first).__name__} of outputs, and a network gives one "
                "tensor: wrap it in a module whose forward concatenates the heads along dimension 1, and say what each "
                "of them means with the geometry Heads((FisherRao(), Euclidean()), sizes=(10, 3))"
            )
        if not isinstance(first, Tensor) or first.ndim < 2 or len(first) != len(few):
            shape = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise NetworkError(
                f"a network gives one row of outputs for each input, [N, C]; {len(few)} inputs gave {shape}"
            )
        if not bool(torch.isfinite(first).all()):
            raise NetworkError("the network's outputs hold NaN or infinity on finite inputs: its weights are broken")
        if not torch.equal(first, second):
            raise NetworkError(
                "the module's output changes between two passes over the same inputs (active dropout or other "
                "randomness), so it is no function of its weights: call module.eval() first, or make it deterministic"
            )


def _tensors(output: object) -> Iterator[Tensor]:
    """The tensors in what a module gives."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, (tuple, list)):
        for one in output:
            yield from _tensors(one)
