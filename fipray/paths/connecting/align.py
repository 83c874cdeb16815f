"""Permutation alignment: the hidden neurons of one network in the order that fits another network best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fipray.border import checked
from fipray.errors import NetworkError
from fipray.networks import Network

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Modules that may lie between two layers: they treat all neurons alike and each by itself, so permutations commute.
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
    """Permute the hidden neurons of a network so that its weights lie near those of another, at the same function.

    Permutations are matched layer by layer, each given those of its neighbours, until none changes: a local maximum of
    `<weights, other>` (Git Re-Basin: Ainsworth et al. 2023, algorithm 1). The search runs twice, from the given order
    and from the one with the highest correlation of activations (Li et al. 2015); the nearer result is returned.
    A sweep solves one assignment problem for each hidden layer, cubic in its width.

    Args:
        network: architecture of both networks, a chain of layers.
        weights: weights [P] of the first network, which stay as they are.
        other: weights [P] of the second network, whose neurons are permuted.
        inputs: inputs [N, ...] on which activations are compared and the result is checked.
        num_sweeps: largest number of sweeps over the layers.

    Returns:
        The permuted weights [P] of the second network.

    Raises:
        NetworkError: for weights that are not finite, and for anything but a chain of layers; it names the module.
    """
    network.check(inputs)
    for each in (weights, other):
        network.named(each)  # raises NetworkError for weights of another network
    if broken := int((~torch.isfinite(torch.stack([weights, other]))).sum()):
        raise NetworkError(
            f"{broken} weights are NaN or infinite, so they cannot be aligned: train or load the networks again"
        )
    layers = list(_chain(network, weights, other))
    as_given = [torch.arange(len(layer.ours)) for layer in layers]
    firsts = (as_given, _by_activations(network, layers, weights, other, inputs))
    orders = [_by_weights(layers, first, num_sweeps) for first in firsts]
    made = min((_ordered(network, layers, other, order) for order in orders), key=lambda w: float((w - weights).norm()))
    # A module that looks like a chain of layers may still use its neurons otherwise, such as pooling over them.
    before, after = (network.outputs(w, inputs) for w in (other, made))
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise NetworkError(f"other neurons than hidden ones would have changed places in this module: {_SUPPORTED}")
    return made


@dataclass(frozen=True)
class _Layer:
    """Weights [out, in, places] of one layer in both networks, and its biases [out, 1] or [out, 0], in float64."""

    name: str
    ours: Tensor
    theirs: Tensor
    bias: Tensor
    bias_theirs: Tensor

    def arriving(self, before: Tensor) -> Tensor:
        """Inner products [out, out] of incoming weights of both networks, inputs of theirs in the order `before`."""
        return self.ours.flatten(1) @ self.theirs[:, before].flatten(1).T + self.bias @ self.bias_theirs.T

    def leaving(self, after: Tensor) -> Tensor:
        """Inner products [in, in] of outgoing weights of both networks, outputs of theirs in the order `after`."""
        return self.ours.transpose(0, 1).flatten(1) @ self.theirs[after].transpose(0, 1).flatten(1).T


def _chain(network: Network, weights: Tensor, other: Tensor) -> Iterator[_Layer]:
    """Yield the layers, first to last; raises NetworkError for a module that is no chain of layers."""
    parts = list(_leaves(network.module_at(weights, share_frozen=True), ""))
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
        wanted = [f"{name}.{key}".removeprefix(".") for key, _ in part.named_parameters()]
        missing = [key for key in wanted if key not in ours]
        if missing:
            raise NetworkError(f"{', '.join(missing)} does not move, or is shared with another layer: {_SUPPORTED}")
        num_neurons, num_inputs = ours[wanted[0]].shape[:2]
        if last >= 0 and not _fits([part for _, part in parts[last : place + 1]], num_before, num_inputs):
            raise NetworkError(f"module {name!r} does not take the {num_before} neurons before it: {_SUPPORTED}")
        weight, weight_theirs = (
            named[wanted[0]].double().cpu().reshape(num_neurons, num_before or num_inputs, -1)
            for named in (ours, theirs)
        )
        # Inner products over no columns are 0, so layers without a bias need no case of their own.
        none = weight.new_zeros(num_neurons, 0)
        bias, bias_theirs = (
            named[wanted[1]].double().cpu()[:, None] if len(wanted) > 1 else none for named in (ours, theirs)
        )
        yield _Layer(name, weight, weight_theirs, bias, bias_theirs)
        num_before, last = num_neurons, place


def _fits(parts: list[nn.Module], num_before: int, num_inputs: int) -> bool:
    """Decide whether the last module takes the neurons of the first in their order, each at equally many places."""
    first, *between, last = parts
    if isinstance(last, nn.Linear) and not isinstance(first, nn.Linear):  # a channel's places become adjacent inputs
        return any(isinstance(part, nn.Flatten) for part in between) and num_inputs % num_before == 0
    return type(first) is type(last) and num_inputs == num_before


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules inside nested nn.Sequential with their names, in the order of their calls."""
    if isinstance(module, nn.Sequential):
        for key, part in module.named_children():
            yield from _leaves(part, f"{name}.{key}".removeprefix("."))
    else:
        yield name, module


def _before(orders: list[Tensor], layers: list[_Layer], number: int) -> Tensor:
    return orders[number - 1] if number else torch.arange(layers[0].ours.shape[1])


def _by_weights(layers: list[_Layer], orders: list[Tensor], num_sweeps: int) -> list[Tensor]:
    """Coordinate ascent from `orders`: for each layer the indices [out] of their neurons; the last layer stays."""
    orders = list(orders)
    for _ in range(num_sweeps):
        changed = False
        for number in reversed(range(len(layers) - 1)):
            gain = layers[number].arriving(_before(orders, layers, number)) + layers[number + 1].leaving(
                orders[number + 1]
            )
            found = _assigned(gain)
            rows = torch.arange(len(found))
            # A gain within rounding would let two equally good permutations alternate until the last sweep.
            if float(gain[rows, found].sum() - gain[rows, orders[number]].sum()) > 1e-9 * float(gain.abs().sum()):
                orders[number], changed = found, True
        if not changed:
            break
    return orders


def _by_activations(
    network: Network, layers: list[_Layer], weights: Tensor, other: Tensor, inputs: Tensor
) -> list[Tensor]:
    """Permutations with the greatest sum of correlations between activations of both networks on `inputs`."""
    both = [_activations(network, layers, w, inputs) for w in (weights, other)]
    orders = [_assigned(ours @ theirs.T) for ours, theirs in zip(*both, strict=True)]
    return [*orders, torch.arange(len(layers[-1].ours))]


@torch.no_grad()
def _activations(network: Network, layers: list[_Layer], weights: Tensor, inputs: Tensor) -> list[Tensor]:
    """Standardised inputs of each layer but the first, one row for each neuron before it, [out before, N places]."""
    # Hooks go on a copy of the module that is dropped afterwards.
    module, seen = network.module_at(weights, share_frozen=True), list[Tensor]()
    for layer in layers[1:]:
        module.get_submodule(layer.name).register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    def gathered() -> list[Tensor]:
        seen.clear()
        for some in inputs.split(network.micro_batch or len(inputs)):
            network.outputs_at(module, some)
        return [torch.cat(seen[number :: len(layers) - 1]) for number in range(len(layers) - 1)]

    rows = [
        given.double().cpu().flatten(1).unflatten(1, (len(before.ours), -1)).transpose(0, 1).flatten(1)
        # These begin with the second layer, so there is one less.
        for before, given in zip(layers, network.fitting(gathered, len(inputs)), strict=False)
    ]
    return [nn.functional.normalize(row - row.mean(1, keepdim=True), dim=1) for row in rows]


def _assigned(gain: Tensor) -> Tensor:
    """Solve the assignment problem: columns [n] of the rows, each used once, with the greatest sum of `gain` [n, n]."""
    from scipy.optimize import linear_sum_assignment  # imported here because only alignment needs it

    return torch.from_numpy(linear_sum_assignment(gain.numpy(), maximize=True)[1])


def _ordered(network: Network, layers: list[_Layer], other: Tensor, orders: list[Tensor]) -> Tensor:
    """Weights `other` [P] with their neurons in these orders."""
    made = other.detach().clone()
    named = network.named(made)
    for number, (layer, order) in enumerate(zip(layers, orders, strict=True)):
        weight = named[f"{layer.name}.weight".removeprefix(".")]
        weight.copy_(layer.theirs[order][:, _before(orders, layers, number)].reshape(weight.shape))
        if layer.bias.shape[1]:
            named[f"{layer.name}.bias".removeprefix(".")].copy_(layer.bias_theirs[order, 0])
    return made
