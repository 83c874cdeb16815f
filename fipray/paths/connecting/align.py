"""Hidden neurons have no order of their own: one network's brought to another's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import NetworkError
from fipray.networks import Network

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# What may stand between two layers, because it treats all neurons alike and each by itself.
_BETWEEN = (
    nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardtanh,
    nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)  # fmt: skip
_SUPPORTED = (
    "an nn.Sequential of nn.Linear and nn.Conv layers (groups=1) that all move, with elementwise activations, pooling "
    "and nn.Flatten() between them, can be aligned"
)


@checked
def aligned(network: Network, weights: Tensor, other: Tensor, inputs: Tensor, *, num_sweeps: int = 100) -> Tensor:
    """`other` [P] with its hidden neurons in an order in which it lies near `weights` [P]: the same function.

    Orders are matched layer by layer, each given those of its neighbours, until none changes: a local maximum of
    `<weights, other>` (Git Re-Basin: Ainsworth et al. 2023, algorithm 1). It is sought twice, from the order that is
    there and from the one in which activations on `inputs` [N, ...] correlate most (Li et al. 2015), and the nearer
    result is returned. A sweep solves one assignment problem a hidden layer, cubic in its width.

    Raises NetworkError, which names the module, for anything but a chain of layers.
    """
    network.check(inputs)
    for each in (weights, other):
        network.named(each)  # refuses weights of another network
    if broken := int((~torch.isfinite(torch.stack([weights, other]))).sum()):
        raise NetworkError(f"{broken} weights are NaN or infinite, and lie near no others: train or load them again")
    layers = list(_chain(network, weights, other))
    there = [torch.arange(len(layer.ours)) for layer in layers]
    firsts = (there, _by_activations(network, layers, weights, other, inputs))
    orders = [_by_weights(layers, first, num_sweeps) for first in firsts]
    made = min((_ordered(network, layers, other, order) for order in orders), key=lambda w: float((w - weights).norm()))
    before, after = (network.outputs(w, inputs) for w in (other, made))
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise NetworkError(f"other neurons than hidden ones would have changed places in this module: {_SUPPORTED}")
    return made


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer [out, in, places] in both networks, and biases [out, 1] or [out, 0], in float64."""

    name: str
    ours: Tensor
    theirs: Tensor
    bias: Tensor
    bias_theirs: Tensor

    def arriving(self, before: Tensor) -> Tensor:
        """Inner products [out, out] of what arrives at our neurons and at theirs, the inputs in order `before`."""
        return self.ours.flatten(1) @ self.theirs[:, before].flatten(1).T + self.bias @ self.bias_theirs.T

    def leaving(self, after: Tensor) -> Tensor:
        """Inner products [in, in] of what leaves our neurons and theirs, the outputs in order `after`."""
        return self.ours.transpose(0, 1).flatten(1) @ self.theirs[after].transpose(0, 1).flatten(1).T


def _chain(network: Network, weights: Tensor, other: Tensor) -> Iterator[_Layer]:
    """The layers, first to last. Raises NetworkError for a module that is no chain of them."""
    parts = list(_leaves(network.module_at(weights), ""))
    places = [place for place, (_, part) in enumerate(parts) if isinstance(part, _LAYERS)]
    if not places:
        raise NetworkError(f"the module has no layers: {_SUPPORTED}")
    for name, part in parts[places[0] : places[-1] + 1]:
        flat = isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) == (1, -1)
        plain = isinstance(part, _LAYERS) and getattr(part, "groups", 1) == 1
        if not (flat or plain or isinstance(part, _BETWEEN)):
            raise NetworkError(f"module {name!r}, {part}, cannot be aligned: {_SUPPORTED}")
    ours, theirs = network.named(weights.detach()), network.named(other.detach())
    num_before, last = 0, -1
    for place in places:
        name, part = parts[place]
        asked = [f"{name}.{key}".removeprefix(".") for key, _ in part.named_parameters()]
        missing = [key for key in asked if key not in ours]
        if missing:
            raise NetworkError(f"{', '.join(missing)} does not move, or is shared with another layer: {_SUPPORTED}")
        num_neurons, num_inputs = ours[asked[0]].shape[:2]
        if last >= 0 and not _fits([part for _, part in parts[last : place + 1]], num_before, num_inputs):
            raise NetworkError(f"module {name!r} does not take the {num_before} neurons before it: {_SUPPORTED}")
        weight, weight_theirs = (
            named[asked[0]].double().cpu().reshape(num_neurons, num_before or num_inputs, -1)
            for named in (ours, theirs)
        )
        none = weight.new_zeros(num_neurons, 0)
        bias, bias_theirs = (
            named[asked[1]].double().cpu()[:, None] if len(asked) > 1 else none for named in (ours, theirs)
        )
        yield _Layer(name, weight, weight_theirs, bias, bias_theirs)
        num_before, last = num_neurons, place


def _fits(parts: list[nn.Module], num_before: int, num_inputs: int) -> bool:
    """Whether the last of `parts` takes the neurons of the first, in their order, each in as many places as another."""
    first, *between, last = parts
    if isinstance(last, nn.Linear) and not isinstance(first, nn.Linear):  # a channel's places become a row of inputs
        return any(isinstance(part, nn.Flatten) for part in between) and num_inputs % num_before == 0
    return type(first) is type(last) and num_inputs == num_before


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The parts of nested nn.Sequential, in the order in which they are called, by name."""
    if isinstance(module, nn.Sequential):
        for key, part in module.named_children():
            yield from _leaves(part, f"{name}.{key}".removeprefix("."))
    else:
        yield name, module


def _before(orders: list[Tensor], layers: list[_Layer], number: int) -> Tensor:
    return orders[number - 1] if number else torch.arange(layers[0].ours.shape[1])


def _by_weights(layers: list[_Layer], orders: list[Tensor], num_sweeps: int) -> list[Tensor]:
    """For each layer the numbers [out] of their neurons in our order; those of the last stay."""
    orders = list(orders)
    for _ in range(num_sweeps):
        changed = False
        for number in reversed(range(len(layers) - 1)):
            gain = layers[number].arriving(_before(orders, layers, number)) + layers[number + 1].leaving(
                orders[number + 1]
            )
            found = _assigned(gain)
            rows = torch.arange(len(found))
            if float(gain[rows, found].sum() - gain[rows, orders[number]].sum()) > 1e-9 * float(gain.abs().sum()):
                orders[number], changed = found, True
        if not changed:
            break
    return orders


def _by_activations(
    network: Network, layers: list[_Layer], weights: Tensor, other: Tensor, inputs: Tensor
) -> list[Tensor]:
    """The orders in which correlations of activations on `inputs` are greatest."""
    both = [_activations(network, layers, w, inputs) for w in (weights, other)]
    orders = [_assigned(ours @ theirs.T) for ours, theirs in zip(*both, strict=True)]
    return [*orders, torch.arange(len(layers[-1].ours))]


@torch.no_grad()
def _activations(network: Network, layers: list[_Layer], weights: Tensor, inputs: Tensor) -> list[Tensor]:
    """What arrives at each layer but the first, a row for each neuron [out before, N places], standardised."""
    module, seen = network.module_at(weights), list[Tensor]()
    for layer in layers[1:]:
        module.get_submodule(layer.name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    module(inputs)
    rows = [
        given.double().cpu().flatten(1).unflatten(1, (len(before.ours), -1)).transpose(0, 1).flatten(1)
        for before, given in zip(layers, seen, strict=False)
    ]
    return [nn.functional.normalize(row - row.mean(1, keepdim=True), dim=1) for row in rows]


def _assigned(gain: Tensor) -> Tensor:
    """The column [n] of each row, each taken once, with the greatest sum of `gain` [n, n]."""
    from scipy.optimize import linear_sum_assignment  # here, because only alignment needs it

    return torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])


def _ordered(network: Network, layers: list[_Layer], other: Tensor, orders: list[Tensor]) -> Tensor:
    """`other` [P] with its neurons in these orders."""
    made = other.detach().clone()
    named = network.named(made)
    for number, (layer, order) in enumerate(zip(layers, orders, strict=True)):
        weight = named[f"{layer.name}.weight".removeprefix(".")]
        weight.copy_(layer.theirs[order][:, _before(orders, layers, number)].reshape(weight.shape))
        if layer.bias.shape[1]:
            named[f"{layer.name}.bias".removeprefix(".")].copy_(layer.bias_theirs[order, 0])
    return made
